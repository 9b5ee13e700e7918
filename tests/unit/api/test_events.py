"""Events have the form and the limits of events.k8s.io/v1, and name no object of another namespace."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kigi.api import events
from kigi.api.events import ACTIONS, event, reference

ROOT = Path(__file__).parents[3]
OBJECT = reference("kigi.dev/v1alpha2", "SystemDeployment", "class-a", "office", "u1")


def made(regarding: dict[str, Any] = OBJECT, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": "Normal",
        "reason": "Switched",
        "note": "from a to b",
        "action": events.REPLACE_DISKS,
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "suffix": "0a1b",
        "controller": "kigi-operator",
        "instance": "pod-1",
    }
    return event(regarding, **(fields | changes))


def test_an_event_is_in_the_namespace_of_its_object() -> None:
    body = made()
    assert body["metadata"] == {"name": "office.0a1b", "namespace": "class-a"}
    assert (body["regarding"], body["action"], body["eventTime"]) == (
        OBJECT,
        "ReplaceDisks",
        "2026-01-01T00:00:00.000000Z",
    )
    assert "related" not in body


def test_an_event_about_an_object_without_a_namespace_is_in_the_default_one() -> None:
    body = made(reference("v1", "Node", None, "n"))
    assert body["metadata"]["namespace"] == "default"
    assert body["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "n"}


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (reference("kigi.dev/v1alpha2", "SystemNode", "class-a", "s"), True),
        (reference("v1", "Node", None, "n"), True),
        (reference("kigi.dev/v1alpha2", "SystemNode", "library", "s"), False),
    ],
    ids=["same namespace", "no namespace", "another namespace"],
)
def test_the_related_object_is_never_in_another_namespace(other: dict[str, Any], shown: bool) -> None:
    assert made(related=other).get("related") == (other if shown else None)
    assert ("library" in str(made(related=other))) is False


@pytest.mark.parametrize("text", ["x" * 2000, "ü" * 2000])
def test_texts_are_cut_to_the_limits_of_the_api_server(text: str) -> None:
    body = made(note=text, reason=text, instance=text)
    assert 1020 <= len(body["note"].encode()) <= 1024
    assert len(body["reason"]) == len(body["reportingInstance"]) == 128
    assert len(made(reference("v1", "Node", None, "n" * 253))["metadata"]["name"]) <= 253


def test_an_instance_without_a_name_is_the_controller() -> None:
    assert made(instance="")["reportingInstance"] == "kigi-operator"


def test_every_action_is_described_and_a_constant() -> None:
    constants = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}
    assert set(ACTIONS) == constants - {events.EVENT_NAMESPACE}
    assert all(text.endswith(".") for text in ACTIONS.values())


def test_no_event_is_built_elsewhere() -> None:
    """Another place could forget a limit, or name an object of another namespace."""
    places = [
        str(path.relative_to(ROOT))
        for folder in ("operator", "node-cache-daemon")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ("reportingController", "involvedObject")
    ]
    assert places == ["operator/kigi/api/events.py"]
