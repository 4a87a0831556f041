"""Our gunicorn.conf.py, with as many threads as BENCH_THREADS says."""

import os
import runpy
from dataclasses import replace
from pathlib import Path

_ours = runpy.run_path(str(Path(__file__).parents[1] / "gunicorn.conf.py"))
_ours["Worker"].size = replace(_ours["Worker"].size, threads=int(os.environ["BENCH_THREADS"]))
globals().update(_ours)
