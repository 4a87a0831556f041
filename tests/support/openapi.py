"""`openapi.yaml`, taken apart for the tests that hold the service to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.support import ROOT

DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text())

JSON = "application/json"
EVENTS = "text/event-stream"


def resolved(node: Any) -> Any:
    """`node` with what it refers to in place. A schema's members beside a reference hold as well as the reference."""
    if isinstance(node, list):
        return [resolved(item) for item in node]
    if not isinstance(node, dict):
        return node
    beside = {name: resolved(value) for name, value in node.items() if name != "$ref"}
    if "$ref" not in node:
        return beside
    target: Any = DOCUMENT
    for name in node["$ref"].removeprefix("#/").split("/"):
        target = target[name]
    return {"allOf": [resolved(target)], **beside} if beside else resolved(target)


def closed(schema: Any) -> Any:
    """`schema` without any room for members that it does not name, but where it says that there is."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(value) for name, value in schema.items()}
    return (
        {"additionalProperties": False, **inner} if schema.get("type") == "object" and "properties" in schema else inner
    )


def problems(value: Any, schema: Any) -> list[str]:
    """What is wrong with `value` by `schema`, formats included."""
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [error.message for error in validator.iter_errors(value)]


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    definition: dict[str, Any]

    @property
    def id(self) -> str:
        """What links call it."""
        return str(self.definition["operationId"])

    @property
    def body(self) -> Any:
        """The schema of its request's body, or None."""
        return self.definition["requestBody"]["content"][JSON]["schema"] if "requestBody" in self.definition else None

    @property
    def answers(self) -> dict[int, Answer]:
        """What it answers, by status."""
        return {int(status): Answer(answer) for status, answer in self.definition["responses"].items()}


@dataclass(frozen=True)
class Answer:
    """What an operation answers with one status."""

    definition: dict[str, Any]

    @property
    def schema(self) -> Any:
        """The body's, of JSON."""
        return self.definition["content"][JSON]["schema"]

    @property
    def content(self) -> dict[str, Any]:
        """Schema and examples of its body, by type."""
        return dict(self.definition["content"])

    @property
    def codes(self) -> list[str]:
        """The codes of the error that it is; none for a success."""
        return list(_codes(self.schema))

    @property
    def examples(self) -> dict[str, Any]:
        """Its bodies, by name."""
        return examples(self.definition["content"][JSON])

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers, by name."""
        return dict(self.definition["headers"])


def _codes(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from node.get("code", {}).get("enum", [])
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _codes(inner)


def examples(content: dict[str, Any]) -> dict[str, Any]:
    """The examples of a parameter, header or body."""
    if "example" in content:
        return {"": content["example"]}
    return {name: example["value"] for name, example in content.get("examples", {}).items()}


OPERATIONS = [
    Operation(method.upper(), path, resolved(definition))
    for path, item in DOCUMENT["paths"].items()
    for method, definition in item.items()
]
