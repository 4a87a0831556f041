"""Keys of our own providers, which detect-secrets does not know. It loads this file by its path."""

from __future__ import annotations

import re

from detect_secrets.plugins.base import RegexBasedDetector


class ProviderKeys(RegexBasedDetector):
    """Anthropic's and Resend's keys."""

    secret_type = "Provider's key"  # noqa: S105 - a name for the report
    denylist = (re.compile(r"\bsk-ant-[\w-]{20,}"), re.compile(r"\bre_[A-Za-z0-9]{8,}_[A-Za-z0-9]{16,}"))
