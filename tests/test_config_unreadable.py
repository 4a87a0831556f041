"""What no variable can mean: refused in every environment, under the variable's own name and no other."""

from __future__ import annotations

import pytest

from config import Config
from tests.test_config import DEVELOPMENT, PRODUCTION, SECRET, TEST, problems

UNREADABLE = {
    "PORT": ["0", "65536", "-1", "+80", "8080.0", "http", "٣٠٠٠", "0x50"],
    "WEB_ORIGINS": [
        *("*", "null", "app.example.com", "ftp://a.example", "https://", "https://a.example/app"),
        *("https://a b.example", "https://a.example,", "https://u:p@a.example", "https://a.example?x"),
        *("https://a.example:99999", "https://a.example:x", "https://*.a.example", "https://ä.example", "https://[::1"),
        *("https://a.example#x", "https://a.example;", 'https://a.example"', "https://a<b", "https://h:0"),
    ],
    "APP_URL": ["app.example.com", "javascript:alert(1)", "https://a.example?x=1", "https://a.example#x", "https:///x"],
    "DATABASE_URL": ["mysql://h/db", "db.example.com", "postgresql://h:x/db", "postgresql://h/db?nonsense=1", "host=h"],
    "DATABASE_POOL_SIZE": ["0", "-1", "1001", "many", "8.0"],
    "REDIS_URL": [
        "redis://",
        "localhost:6379",
        "http://h",
        "redis://h:99999",
        "redis://h:x",
        "redis://h/abc",
        "redis://h?socket_timeout=9",
    ],
    "AUTH_TOKEN_SECRETS": [",", f"{SECRET},", f"{SECRET},,{SECRET}", f"{SECRET}\udc80"],
    "AUTH_TOKEN_TTL": [
        *("0", "0m", "-5m", "m", "10 m", "10x", "1.5h", "1h30m", "367d", "9999999999", "ten minutes", "٩m"),
    ],
    "SESSION_TTL": ["0s", "12H", "1y", "∞"],
    "AUTH_COOKIE_NAME": ["a b", "a;b", "a=b", "ä", "a" * 65, "__Host-a\tb"],
    "TRUSTED_PROXY_HOPS": ["-1", "11", "one", "1.0"],
    "RATE_LIMIT_LINK_PER_IP": ["5", "lots", "5/fortnight", "0/minute", "-5/minute", "5/minute;", "5/minute;;1/hour"],
    "RATE_LIMIT_LINK_PER_EMAIL": ["5/minute;lots;20/hour"],
    "RATE_LIMIT_VERIFY_PER_IP": ["minute"],
    "RATE_LIMIT_PER_USER": ["0/minute;5/hour", "5/minute,0/hour", "5 per 0 minutes"],
    "RATE_LIMIT_LLM_PER_USER": ["20", "0/minute", "20/minute;;5/hour"],
    "LLM_PROVIDER_KEY": ["sk ant", "sk-é", "sk\nant"],
    "LLM_PROVIDER_URL": ["api.anthropic.com", "ftp://h", "https://u:p@h", "https://h?x", "https://h#x"],
    "LLM_MODELS": [",", "claude,", "a,,b", "claude sonnet", "claudé", "a;b", 'a"b', "a\nb", "a" * 129],
    "LLM_MAX_OUTPUT_TOKENS": ["0", "-1", "4k", "4096.0", "1000001", "٤٠٩٦"],
    "LLM_DAILY_TOKENS": ["0", "-1", "many", "1e6", "200_000", "1000000000"],
    "LLM_TOTAL_DAILY_TOKENS": ["0", "-1", "unlimited"],
    "LLM_IDLE_TIMEOUT": ["0", "-1s", "60 s", "forever"],
    "LLM_TOTAL_TIMEOUT": ["0m", "10x", "none"],
    "LLM_CALLS_PER_WORKER": ["0", "-1", "1001", "all"],
    "EMAIL_FROM": [
        *("lumen", "lumen@", "lumen@localhost", "a@b@example.com", "Lumen <lumen@example.com"),
        *("Lumen\nBcc: eve@example.com <lumen@example.com>", "a@example.com, b@example.com", "grüße@example.com"),
    ],
    "RESEND_API_KEY": ["re_ key", "ré", "re_\nkey"],
    "OTEL_EXPORTER_OTLP_ENDPOINT": ["collector:4317", "grpc://h", "https://u:p@h", "https://h?x"],
    "OTEL_EXPORTER_OTLP_HEADERS": ["key", "=value", "a=b,", "a=b,c", "ä=b", "a b=c", "a:b=c", "a=b%0Ac", "a=%E2%82%AC"],
    "OTEL_SERVICE_NAME": ["two words", "ä", "a" * 256],
    "OTEL_RESOURCE_ATTRIBUTES": ["region", "=eu", "a=b;c d=e"],
    "OTEL_TRACES_SAMPLER": ["sometimes", "ALWAYS_ON", "0.1", "jaeger_remote"],
    "OTEL_TRACES_SAMPLER_ARG": ["-0.1", "1.1", "10%", "nan", "inf", "half"],
    "OTEL_TRACES_EXPORTER": ["console", "otlp,console"],
    "OTEL_METRICS_EXPORTER": ["prometheus", "OTLP"],
    "OTEL_SDK_DISABLED": ["yes", "on", "2"],
    "API_DOCS": ["yes", "development", "-1"],
    "SMTP_URL": [
        "mail.example.com",
        "smtp://",
        "http://h",
        "smtp://h:99999",
        "smtp://h:x",
        "smtp:h",
        "smtp://h:0",
        "smtp://h/?starttls=no",
    ],
    "LOG_LEVEL": ["LOUD", "0", "INFO,DEBUG"],
}


@pytest.mark.parametrize("env", [PRODUCTION, TEST, DEVELOPMENT], ids=lambda env: env["APP_ENV"])
@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_value_is_refused_in_every_environment(env: dict[str, str], name: str) -> None:
    found = {value: problems({**env, name: value}) for value in UNREADABLE[name]}

    assert found == {value: [name] for value in UNREADABLE[name]}


def test_the_table_of_unreadable_values_names_every_variable() -> None:
    assert {setting.name for setting in Config.settings().values()} == {"APP_ENV", *UNREADABLE}
