"""What the service is measured against: each app does what must be done for an answer, and nothing else.

    plain.py   health, as bare WSGI
    bare.py    health, as bare Flask
    app.py     every measured route: the same SQL, as many Redis commands, the same mail

They run under our gunicorn.conf.py, whose worker asks its application for `EXTENSIONS`.
"""

from __future__ import annotations

from types import SimpleNamespace

# What the worker needs to stop calls of the model, and to refuse requests.
EXTENSIONS = {
    "lumen.model_calls": SimpleNamespace(stop=SimpleNamespace(begin=lambda _seconds: None)),
    "lumen.headers": {},
    "lumen.origins": frozenset[str](),
}
