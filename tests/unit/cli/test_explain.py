"""The entries of ``kigi why`` follow an object that is not Ready to what it depends on."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.adapters.kubernetes.resources import CAPTURE, DEPLOYMENT
from kigi.cli.explain import explain


def because(**machine: Any) -> list[dict[str, Any]]:
    """Entries below a deployment with that machine, which is not Ready."""
    key = (DEPLOYMENT.kind, "office")
    ready = {"type": "Ready", "status": "False", "reason": "MachinesStarting", "message": ""}
    body = {
        "metadata": {"name": "office", "generation": 1},
        "spec": {"system": {"name": "a"}},
        "status": {
            "observedGeneration": 1,
            "conditions": [ready],
            "instances": [{"instance": 0, "machines": [{"name": "mail1", "node": "n1", **machine}]}],
        },
    }
    found: list[dict[str, Any]] = explain({key: body}, [key])[0]["because"]
    return found


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("Starting", "it runs, and its readiness probe does not answer"),
        ("Starting", "hook sidecar refused the domain"),
        ("Failed", "ErrorPvcNotFound"),
        ("Failed", None),
        ("CrashLooping", None),
        ("Paused", None),
        ("PoweredOff", None),
    ],
)
def test_a_machine_that_does_not_run_by_itself_has_an_entry_with_a_remedy(state: str, message: str | None) -> None:
    (machine,) = because(state=state, message=message)
    assert (machine["object"], machine["reason"]) == ("machine mail1 of instance 0", state)
    assert machine["message"] == (message or "")
    assert machine["remedy"]


@pytest.mark.parametrize("state", ["Running", "Stopped", "Starting", "Warming", "Restarting"])
def test_a_machine_that_runs_or_starts_has_no_entry(state: str) -> None:
    assert because(state=state) == []


def test_a_capture_names_the_disk_that_waits_its_node_and_the_reason() -> None:
    key = (CAPTURE.kind, "after")
    body = {
        "metadata": {"name": "after", "generation": 1},
        "spec": {"deployment": {"name": "office"}},
        "status": {
            "observedGeneration": 1,
            "conditions": [{"type": "Ready", "status": "False", "reason": "CacheSilent", "message": ""}],
            "disks": [
                {"name": "web", "node": "n1", "state": "Storing", "reason": "CacheSilent", "message": "no report"},
                {"name": "web/data", "node": "n2", "state": "Stored"},
            ],
        },
    }
    (entry,) = explain({key: body}, [key])
    (disk,) = entry["because"]
    assert (disk["object"], disk["reason"], disk["message"]) == ("disk web on node n1", "CacheSilent", "no report")
    assert disk["remedy"]


def test_a_capture_that_waits_for_its_deployment_has_the_deployments_entry() -> None:
    key, below = (CAPTURE.kind, "after"), (DEPLOYMENT.kind, "office")
    ready = {"type": "Ready", "status": "False", "message": ""}
    bodies = {
        key: {
            "metadata": {"name": "after", "generation": 1},
            "spec": {"deployment": {"name": "office"}},
            "status": {"observedGeneration": 1, "conditions": [{**ready, "reason": "NotSettled"}]},
        },
        below: {
            "metadata": {"name": "office", "generation": 1},
            "spec": {"system": {"name": "a"}},
            "status": {"observedGeneration": 1, "conditions": [{**ready, "reason": "NoNode"}]},
        },
    }
    (entry,) = explain(bodies, [key])
    assert [found["reason"] for found in entry["because"]] == ["NoNode"]
