"""What is shown of the configuration, by `flask check-config` and by a start that is refused: all but the secrets."""

from __future__ import annotations

import pytest

from config import Config, ConfigError
from tests.support.programs import flask
from tests.test_config import PRODUCTION, SECRET

CANARY = "canary-of-a-secret-that-is-long-enough"


def test_no_secret_is_in_the_repr() -> None:
    env = {**PRODUCTION, "AUTH_TOKEN_SECRETS": CANARY, "SMTP_URL": "", "RESEND_API_KEY": CANARY}

    assert CANARY not in repr(Config.from_env({**env, "DATABASE_URL": f"postgresql://u:{CANARY}@h/db"}))
    assert CANARY not in repr(Config.from_env({**PRODUCTION, "LLM_PROVIDER_KEY": CANARY}))
    assert CANARY not in repr(Config.from_env({**PRODUCTION, "SMTP_URL": f"smtp://u:{CANARY}@h"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_TOKEN_SECRETS", f"{SECRET},{CANARY}"),
        ("DATABASE_URL", f"postgresql://u:{CANARY}@h/db"),
        ("DATABASE_URL", f"postgresql://u:{CANARY}@h1:5432,h2:5432/db"),
        ("DATABASE_URL", f"postgresql://h/db?user=u&password={CANARY}"),
        ("DATABASE_URL", f"postgresql://h/db?password={CANARY}&sslpassword={CANARY}&sslmode=require"),
        ("REDIS_URL", f"redis://:{CANARY}@h"),
        ("REDIS_URL", f"valkeys://u:{CANARY}@h:6380/1"),
        ("REDIS_URL", f"redis://h?password={CANARY}"),
        ("LLM_PROVIDER_KEY", CANARY),
        ("SMTP_URL", f"smtps://u%40h:{CANARY}@h:465"),
        ("SMTP_URL", f"smtps://u:p@ss:{CANARY}@h:465"),
        ("SMTP_URL", f"smtps://{CANARY}:{CANARY}@h"),  # some providers' user name is the password
    ],
)
def test_no_secret_is_shown(name: str, value: str) -> None:
    assert CANARY not in str(Config.from_env({**PRODUCTION, name: value}).shown())
    with pytest.raises(ConfigError) as refused:
        Config.from_env({**PRODUCTION, name: value, "PORT": "x"})
    assert CANARY not in refused.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_TOKEN_SECRETS", f"{CANARY},"),
        ("AUTH_TOKEN_SECRETS", CANARY[:31]),
        ("DATABASE_URL", f"mysql://u:{CANARY}@h/db"),
        ("DATABASE_URL", f"postgresql://u:{CANARY}@h/db?nonsense=1"),
        ("REDIS_URL", f"http://:{CANARY}@h"),
        ("REDIS_URL", f"redis://h:{CANARY}"),
        ("SMTP_URL", f"smtp://u:{CANARY}/@h"),
        ("RESEND_API_KEY", f"{CANARY} "[::-1] + " ä"),
        ("LLM_PROVIDER_KEY", f"{CANARY} ä"),
        ("LLM_PROVIDER_URL", f"https://u:{CANARY}@api.anthropic.com"),
        ("LLM_MODELS", f"{CANARY} ä"),  # a key in the wrong variable
        ("WEB_ORIGINS", f"https://u:{CANARY}@a.example"),
    ],
)
def test_no_secret_is_in_the_complaint_about_it(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config.from_env({**PRODUCTION, name: value})
    assert CANARY[:31] not in refused.value.message


def test_check_config_prints_what_is_in_force_and_no_secret() -> None:
    secret = {"AUTH_TOKEN_SECRETS": CANARY, "REDIS_URL": f"redis://:{CANARY}@redis.example.com"}
    done = flask(
        "check-config", {**PRODUCTION, **secret, "SMTP_URL": f"smtp://u:{CANARY}@mail.example.com", "PORT": "9000"}
    )

    assert (done.returncode, done.stderr) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:-4])
    assert done.stdout.endswith("\n\ntelemetry: none leaves this process\n\nno problems\n")
    assert shown.keys() == {setting.name for setting in Config.settings().values()}
    assert (shown["PORT"], shown["AUTH_TOKEN_TTL"], shown["AUTH_TOKEN_SECRETS"]) == ("9000", "600s", "****")
    assert "mail.example.com" in shown["SMTP_URL"]
    assert (shown["APP_URL"], shown["AUTH_COOKIE_NAME"]) == ("https://app.example.com", "__Host-lumen_session")
    assert CANARY not in done.stdout


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "traces and metrics go to https://otel.example.com (parentbased_traceidratio 0.1)"),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, "traces and metrics go to https://otel.example.com (always_on)"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "metrics go to https://otel.example.com"),
        ({"OTEL_METRICS_EXPORTER": "none"}, "traces go to https://otel.example.com (parentbased_traceidratio 0.1)"),
        ({"OTEL_SDK_DISABLED": "true"}, "none leaves this process"),
    ],
)
def test_it_says_where_telemetry_goes(variables: dict[str, str], says: str) -> None:
    config = Config.from_env({**PRODUCTION, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example.com/", **variables})

    assert config.telemetry_shown == f"telemetry: {says}"


def test_check_config_lists_every_problem_and_exits_1() -> None:
    done = flask("check-config", {"AUTH_TOKEN_SECRETS": CANARY[:20], "RESEND_API_KEY": CANARY, "PORT": "x"})

    assert done.returncode == 1
    assert done.stderr.startswith("Error: the configuration has ")
    listed = done.stderr.partition("problem(s):")[2].partition("the configuration in force:")[0]
    for name in ("DATABASE_URL", "REDIS_URL", "AUTH_TOKEN_SECRETS", "WEB_ORIGINS", "TRUSTED_PROXY_HOPS", "PORT"):
        assert f"\n  {name} " in listed
    assert CANARY[:20] not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
