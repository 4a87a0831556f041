"""gunicorn's settings. `gunicorn wsgi:app` reads this file by itself; WEB_CONCURRENCY sets the workers (default 1)."""

import os
import signal
import sys

from config import WORKER_THREADS, Config, ConfigError
from lumen_api.observability import logging, tracing
from lumen_api.server import listeners
from lumen_api.server.connection import Size
from lumen_api.server.worker import Worker
from lumen_api.validation import MAX_BODY_BYTES, MAX_BYTES_OF_BLUEPRINT

logging.take_over()
try:
    _config = Config.from_env()
except ConfigError as error:
    if error.app_env == "development":
        sys.exit(error.message)
    logging.configure("ERROR", env=error.app_env, readable=False)
    logging.log_problems(error.problems)
    sys.exit(1)

bind = f"{_config.host}:{_config.port}"
worker_class = Worker
threads = WORKER_THREADS
# Eight requests run at once, the others wait for 50 ms. With 64 the threads left Python's lock to the main thread so
# rarely that refusals took twice as long.
Worker.size = Size(WORKER_THREADS, requests=32, largest_body=MAX_BODY_BYTES)
Worker.sizes = {
    # A platform that hears nothing, or 503, stops what is merely busy. Readiness may wait for a database that hangs.
    b"/v1/health": Size(4, requests=64, largest_body=MAX_BODY_BYTES)
}
if _config.llm_served:
    # A call holds its thread to its end; those that are refused need one, too.
    _calls = _config.llm_calls_per_worker
    Worker.sizes[b"/v1/llm"] = Size(_calls + 8, requests=_calls + 64, largest_body=MAX_BYTES_OF_BLUEPRINT["llm"])
# Seconds. A worker whose main loop is stuck for `timeout` is replaced (a slow client does not count: docs/deploy.md).
timeout = 30
# One that is told to stop has GRACE for the requests that it has accepted, and sends its last telemetry then. It is
# killed after `graceful_timeout`, which is less than the 30 s that a PaaS waits before it kills.
GRACE = 20
# Calls of the model end earlier, with an error event: a thread that is killed settles nothing.
MODEL_CALLS_GRACE = 15
graceful_timeout = GRACE + 5
# Above the idle timeout of the balancers in front, which would otherwise reuse a connection that we are closing.
keepalive = 75
control_socket_disable = True
# No peer sets the path or the scheme by a header, not even one on loopback: they are the configuration's to say, and
# the client's address is the application's to read (TRUSTED_PROXY_HOPS).
forwarded_allow_ips = ""
# Our own hook writes the request log; gunicorn's would hold addresses and paths.
accesslog = None
logconfig_dict = logging.settings(_config.log_level, env=_config.app_env, readable=_config.development)


def on_starting(arbiter):
    """Listen."""
    listeners.open_all(arbiter)


def pre_fork(arbiter, worker):
    """Give the worker its socket."""
    listeners.choose(arbiter, worker)


def post_fork(arbiter, worker):
    """Leave the other sockets alone, and keep gunicorn from printing the text of an exception beside its log line."""
    listeners.close_others(arbiter, worker)
    if not _config.development:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process


def child_exit(arbiter, worker):
    """Release the socket of a worker, if it was one too many."""
    listeners.release(arbiter, worker)


def post_worker_init(worker):
    """Say how a worker stops. By Ctrl-C as by SIGTERM: gthread's own handler can deadlock with its thread pool."""
    # Python's threads hand its lock on after 5 ms, and under load the main thread waits for it for every new client: at
    # four times the capacity 1 % of the refusals took 2.3 s, and with 2 ms 0.5 s. With 0.5 ms they were no faster, and
    # a mail took a sixth more of CPU time.
    sys.setswitchinterval(0.002)
    worker.cfg.set("graceful_timeout", GRACE)  # the worker's own; the master keeps the longer one
    calls = worker.wsgi.extensions["lumen.model_calls"]

    def stop(number, frame):
        worker.handle_exit(number, frame)
        calls.stop.begin(MODEL_CALLS_GRACE)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, stop)


def worker_exit(_, __):
    """Send the last telemetry before Python waits for threads that a slow client may hold."""
    tracing.stop()


def when_ready(arbiter):
    """Bound what clients can keep waiting, and greet the developer."""
    listeners.limit(arbiter)
    if _config.development:
        from lumen_api.dev import welcome

        print(welcome.text(_config.port), flush=True)
