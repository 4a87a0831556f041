"""gunicorn's entry: `gunicorn wsgi:app`."""

import sys

from app import create_app
from config import ConfigError
from lumen_api.observability.logging import log_problems

try:
    app = create_app()
except ConfigError as error:
    # gunicorn.conf.py has stopped on all that can be known before; this is what OpenTelemetry does not take.
    log_problems(error.problems)
    sys.exit(3)  # gunicorn's WORKER_BOOT_ERROR: no use in starting another worker
