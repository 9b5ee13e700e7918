"""State and message of one machine: one row for each state, and the order in which they count."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.api.instance import MAX_MESSAGE
from kigi.planning.instance import plan_instance
from kigi.planning.placed import PlacedTarget
from kigi.status.machines import machine_state, machine_status
from tests.support.worlds import World, deployment_spec, with_machines

LATER = datetime(2026, 1, 1, tzinfo=UTC)


def placed(*, running: bool = True, **fields: Any) -> PlacedTarget:
    """Machine db of a settled deployment, with other fields of its VM and VMI."""
    w = World(deployment_spec("a"))
    w.settle()
    found = next(p for p in plan_instance(with_machines(w.view(), "db", **fields)).placed if p.target.machine == "db")
    return replace(found, target=replace(found.target, running=running))


STATES = {
    "running": ({}, "Running"),
    "other-disk-in-template": ({"vm": {"claim": "dep.0.db.r0"}}, "Restarting"),
    "other-disk-in-vmi": ({"vmi": {"claim": "dep.0.db.r0"}}, "Restarting"),
    "no-disk-in-template": ({"vm": {"claim": None}}, "Pending"),
    "failed": ({"vmi": {"phase": "Failed"}}, "Failed"),
    "paused": ({"vmi": {"paused": True}}, "Paused"),
    "other-template": ({"vmi": {"hardware": "other"}}, "Restarting"),
    "other-template-and-paused": ({"vmi": {"hardware": "other", "paused": True}}, "Paused"),
    "other-template-and-ended": ({"vmi": {"hardware": "other", "phase": "Succeeded"}}, "PoweredOff"),
    "terminating": ({"vmi_deleting": True}, "Starting"),
    "ended": ({"vmi": {"phase": "Succeeded"}}, "PoweredOff"),
    "off-by-its-guest": ({"is_off": True, "vm": {"printable_status": "Stopped"}}, "PoweredOff"),
    "off-and-starting": ({"is_off": True, "vm": {"printable_status": "Starting"}}, "Starting"),
    "ghost-record": ({"vmi": {"blocked_by_ghost_record": True, "ready": False}}, "Restarting"),
    "kept-off": ({"is_off": True, "vm": {"running": False, "halted_until": LATER}}, "Restarting"),
    "crash-loop": ({"vmi": {"ready": False}, "vm": {"printable_status": "CrashLoopBackOff"}}, "CrashLooping"),
    "unschedulable": ({"vmi": {"ready": False}, "vm": {"printable_status": "ErrorUnschedulable"}}, "Unschedulable"),
    "no-image": ({"vmi": {"ready": False}, "vm": {"printable_status": "ErrImagePull"}}, "Failed"),
}


@pytest.mark.parametrize(("fields", "state"), STATES.values(), ids=STATES)
def test_the_state_of_a_machine_that_should_run(fields: dict[str, Any], state: str) -> None:
    assert machine_state(placed(**fields)) == state


@pytest.mark.parametrize(
    ("fields", "state"),
    [({}, "Stopping"), ({"is_off": True}, "Stopped"), ({"vmi": {"phase": "Failed"}}, "Failed")],
    ids=["vmi", "no-vmi", "failed"],
)
def test_the_state_of_a_machine_that_should_be_off(fields: dict[str, Any], state: str) -> None:
    assert machine_state(placed(running=False, **fields)) == state


@pytest.mark.parametrize("fields", [{}, {"vmi": {"phase": "Failed"}}, {"is_off": True}])
def test_missing_layers_count_before_everything_else(fields: dict[str, Any]) -> None:
    assert machine_state(replace(placed(**fields), is_cached=False, waits_for=("web",))) == "Warming"


def test_a_machine_that_waits_names_the_machines_before_it() -> None:
    status = machine_status(replace(placed(is_off=True), waits_for=("dns", "web")), "a")
    assert (status.state, status.message) == ("Waiting", "starts after dns, web")


def test_a_machine_without_a_vm_is_pending() -> None:
    status = machine_status(replace(placed(), observed=None), "a")
    assert (status.state, status.message) == ("Pending", None)


MESSAGES = {
    "running": ({"vm": {"message": "ignored"}}, None),
    "persistent-state": (
        {"vmi": {"persistent_state": "devices.tpm"}},
        "no reset reaches the state of its persistent domain.devices.tpm",
    ),
    "ghost-record": (
        {"vmi": {"blocked_by_ghost_record": True, "ready": False}},
        "KubeVirt has a ghost record of its last run; it stays off for 30 s and then starts",
    ),
    "paused-with-other-template": (
        {"vmi": {"paused": True, "hardware": "other"}},
        "its hardware has changed; it restarts when it is resumed",
    ),
    "message-of-vmi-first": ({"vm": {"message": "vm"}, "vmi": {"message": "vmi", "ready": False}}, "vmi"),
    "message-of-vm": ({"vm": {"message": "vm"}, "vmi": {"ready": False}}, "vm"),
    "trouble-without-message": ({"vm": {"printable_status": "ErrImagePull"}, "vmi": {"ready": False}}, "ErrImagePull"),
    "crash-loop": ({"vm": {"printable_status": "CrashLoopBackOff"}, "vmi": {"ready": False}}, "previous"),
    "no-trouble": ({"vm": {"printable_status": "Starting"}, "vmi": {"ready": False}}, None),
}


@pytest.mark.parametrize(("fields", "message"), MESSAGES.values(), ids=MESSAGES)
def test_the_message_of_a_machine(fields: dict[str, Any], message: str | None) -> None:
    assert machine_status(placed(**fields), "a", "previous").message == message


def test_a_machine_that_was_paused_because_it_fills_the_disk_says_so() -> None:
    found = placed(vmi={"paused": True})
    assert found.observed is not None
    assert machine_status(found, "a").message is None, "a user has paused it"
    assert "disk of its node is nearly full" in str(machine_status(replace(found, fills_disk=True), "a").message)
    running = replace(placed(), fills_disk=True)
    assert machine_status(running, "a").message is None, "it is not paused yet"


def test_a_message_that_is_too_long_ends_in_an_ellipsis() -> None:
    message = machine_status(placed(vm={"message": "x" * 1000}, vmi={"ready": False}), "a").message
    assert message == "x" * (MAX_MESSAGE - 1) + "…"


def test_a_machine_reports_node_revision_and_the_state_of_its_disk() -> None:
    status = machine_status(placed(), "a")
    assert (status.name, status.revision, status.system_name) == ("db", 1, None)
    assert status.node_name in ("n1", "n2")
