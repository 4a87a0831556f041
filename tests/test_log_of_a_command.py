"""What a process prints that is no server's: uncaught exceptions, commands, and a start that is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from config import Config, ConfigError
from tests.support import ROOT, logs
from tests.test_config import PRODUCTION

CANARY = "canary"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python, in production unless `variables` say otherwise."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "FLASK_SKIP_DOTENV": "1", **PRODUCTION, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def program(source: str) -> subprocess.CompletedProcess[str]:
    """A program that makes the app, and then does something else."""
    return run("-c", f"from app import create_app\ncreate_app()\n{source}")


# --- What Python prints by itself. ---


@pytest.mark.parametrize(
    ("source", "status", "classes"),
    [
        (f"raise ValueError('{CANARY}')", 1, ["ValueError"]),
        (f"raise ExceptionGroup('{CANARY}', [OSError('{CANARY}')])", 1, ["ExceptionGroup"]),
        (f"import warnings; warnings.warn('{CANARY}')", 0, ["UserWarning"]),
        (f"import warnings; warnings.warn_explicit('{CANARY}', Warning, '/home/ada/x.py', 7)", 0, ["Warning"]),
        ("import sys; sys.exit(3)", 3, []),
    ],
)
def test_what_python_would_print_of_a_program_is_an_event(source: str, status: int, classes: list[str]) -> None:
    done = program(source)

    assert (done.returncode, done.stderr) == (status, "")
    assert [line["error_class"] for line in logs.read(done.stdout)] == classes
    assert CANARY not in done.stdout
    assert "/home" not in done.stdout


def test_an_exception_that_c_has_no_object_for_is_an_event_with_its_class() -> None:
    done = program(
        "import sys, types\n"
        "sys.unraisablehook(types.SimpleNamespace(exc_type=KeyError, exc_value=None, exc_traceback=None,"
        f" err_msg='{CANARY}', object='{CANARY}'))"
    )

    assert (done.returncode, done.stderr) == (0, "")
    (line,) = logs.read(done.stdout)
    assert (line["event"], line["error_class"]) == ("unhandled_error", "KeyError")


# --- Commands. ---


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_migrating_is_lines_of_json(empty: str, level: str) -> None:
    done = run("-m", "flask", "db", "apply", DATABASE_URL=empty, LOG_LEVEL=level)

    assert (done.returncode, done.stderr) == (0, "")
    events = [line["event"] for line in logs.read(done.stdout) if line["event"] != "library"]
    assert events[0] == "migration_applied"
    assert events[-1] == "database_up_to_date"


# --- A configuration that gunicorn cannot start with. ---

SECRET = "s3cret-of-a-database"
REFUSED = {
    "DATABASE_URL": f"mysql://lumen:{SECRET}@db.example.com/lumen",
    "AUTH_TOKEN_SECRETS": SECRET,
    "PORT": SECRET,
    "REDIS_URL": f"http://:{SECRET}@redis.example.com",
    "SMTP_URL": f"imap://lumen:{SECRET}@mail.example.com",
    "LOG_LEVEL": SECRET,
}


@pytest.mark.parametrize("app_env", ["production", "test"])
def test_gunicorn_says_every_problem_of_a_configuration_in_a_line(app_env: str) -> None:
    variables = {**REFUSED, "APP_ENV": app_env}
    with pytest.raises(ConfigError) as refused:
        Config.from_env({**PRODUCTION, **variables})

    done = run("-m", "gunicorn", "wsgi:app", **variables)

    assert (done.returncode, done.stderr) == (1, "")
    lines = logs.read(done.stdout)
    assert [(line["variable"], line["problem"]) for line in lines] == refused.value.problems
    assert {line["env"] for line in lines} == {app_env}
    assert {line["variable"] for line in lines} >= REFUSED.keys() - {"AUTH_TOKEN_SECRETS"}
    assert SECRET not in done.stdout


def test_an_environment_of_an_unknown_name_is_refused_as_production() -> None:
    done = run("-m", "gunicorn", "wsgi:app", APP_ENV=SECRET)

    assert (done.returncode, done.stderr) == (1, "")
    lines = logs.read(done.stdout)
    assert [(line["variable"], line["env"]) for line in lines][:1] == [("APP_ENV", "production")]
    assert SECRET not in done.stdout


def test_in_development_gunicorn_says_it_to_a_person() -> None:
    done = run("-m", "gunicorn", "wsgi:app", **{**REFUSED, "APP_ENV": "development"})

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("the configuration has ")
    assert "\n  PORT " in done.stderr
    assert SECRET not in done.stderr


# --- In development. ---

SAYS = f"""
import logging, sys
from lumen_api.observability.logging import log_event, take_over
log_event("auth_request", outcome="sent", nothing=None)
logging.getLogger("a.library").warning("could not reach %s", "{CANARY}")
logging.getLogger("a.library").debug("not written")
try:
    raise ValueError("{CANARY}")
except ValueError as error:
    log_event("unhandled_error", logging.ERROR, exc_info=error)
"""


def development(source: str) -> str:
    """What a program prints in development that has made the app."""
    done = run("-c", f"from app import create_app\ncreate_app()\n{source}", APP_ENV="development", AUTH_COOKIE_NAME="")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_in_development_the_events_are_for_a_person() -> None:
    event, library, *trace = development(SAYS).splitlines()

    assert re.fullmatch(r"\d\d:\d\d:\d\d \[info +\] auth_request +outcome=sent", event)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d \[warning +\] could not reach {CANARY} +\[?a\.library\]?.*", library)
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[error +\] unhandled_error.*", trace[0])
    assert trace[1] == "Traceback (most recent call last):"
    assert trace[-1] == f"ValueError: {CANARY}"


def test_in_development_a_log_call_with_wrong_arguments_is_shown() -> None:
    done = run(
        "-c",
        "from app import create_app\ncreate_app()\nimport logging\nlogging.getLogger('x').warning('%d', 'text')",
        APP_ENV="development",
        AUTH_COOKIE_NAME="",
    )

    assert "TypeError" in done.stderr


def test_colours_are_for_a_terminal() -> None:
    assert "\x1b[" not in development(SAYS)

    ours, its = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", f"from app import create_app\ncreate_app()\n{SAYS}"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **PRODUCTION, "APP_ENV": "development", "AUTH_COOKIE_NAME": ""},
            stdout=its,
            timeout=30,
            check=True,
        )
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(its)

    assert "\x1b[" in shown
    assert "auth_request" in shown


def test_in_production_the_same_is_json_without_the_texts() -> None:
    done = run("-c", f"from app import create_app\ncreate_app()\n{SAYS.replace(', nothing=None', '')}")

    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == [
        "auth_request",
        "library",
        "unhandled_error",
    ]
    assert CANARY not in done.stdout
