"""schemathesis asks the running service for what `openapi.yaml` allows and forbids, and follows its links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLENTY, ServiceFactory
from tests.support import ROOT, databases
from tests.support.openapi import OPERATIONS
from tests.support.service import Service

JOURNEY = ["requestLink", "verify", "startSession", "endSession"]


@pytest.fixture
def service(serve: ServiceFactory) -> Service:
    """As a developer runs it, where the answer holds the link and the model is an echo."""
    limits = {"RATE_LIMIT_LLM_PER_USER": PLENTY, "LLM_DAILY_TOKENS": "9999999"}
    return serve(workers=1, APP_ENV="development", SMTP_URL="", LOG_LEVEL="CRITICAL", **limits)


def fuzz(service: Service, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run schemathesis with all of its checks. Returns what it has recorded; fails if it has found anything."""
    record = folder / "record.ndjson"
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "--config-file",
        str(ROOT / "tests/support/schemathesis.toml"),
    ]
    command += ["run", f"http://127.0.0.1:{service.port}/v1/openapi.json", "--checks", "all", *arguments]
    run = subprocess.run(
        [*command, "--report-ndjson-path", str(record), "--output-sanitize", "false", "--no-color"],
        cwd=folder,  # where it leaves its own files
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return [json.loads(line) for line in record.read_text().splitlines()]


def recorders(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests and answers of each scenario."""
    finished = [event["ScenarioFinished"] for event in events if "ScenarioFinished" in event]
    return [scenario["recorder"] for scenario in finished if scenario.get("recorder", {}).get("cases")]


def test_whatever_is_asked_is_answered_as_documented(service: Service, tmp_path: Path) -> None:
    events = fuzz(service, tmp_path, "--max-examples", "15")

    cases = [case["value"] for recorder in recorders(events) for case in recorder["cases"].values()]
    asked = {(case["method"], case["path"]) for case in cases}
    # It does not ask for the document once more.
    assert asked >= {(operation.method, operation.path) for operation in OPERATIONS} - {("GET", "/v1/openapi.json")}
    assert {case["meta"]["generation"]["mode"] for case in cases} == {"positive", "negative"}


def test_the_links_lead_from_a_mail_to_an_ended_session(service: Service, tmp_path: Path, database: str) -> None:
    only = [argument for name in JOURNEY for argument in ("--include-operation-id", name)]
    events = fuzz(service, tmp_path, "--phases", "stateful", "--mode", "positive", "--max-examples", "15", *only)

    by_id = {operation.id: f"{operation.method} {operation.path} 200" for operation in OPERATIONS}
    walked = [walk for recorder in recorders(events) for walk in walks(recorder)]
    assert [by_id[name] for name in JOURNEY] in walked
    complete = "select count(*) from sessions where started_at is not null and transcript_hash is not null"
    assert databases.query(database, complete) > [(0,)]


def walks(recorder: dict[str, Any]) -> list[list[str]]:
    """For each request, those that led to it by links that the document has, and itself."""
    cases, answers = recorder["cases"], recorder["interactions"]

    def walk(name: str) -> list[str]:
        case = cases[name]
        before = walk(case["parent_id"]) if case.get("transition") and not case["transition"]["is_inferred"] else []
        return [
            *before,
            f"{case['value']['method']} {case['value']['path']} {answers[name]['response']['status_code']}",
        ]

    return [walk(name) for name in cases if name in answers]
