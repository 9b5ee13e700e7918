"""Boot order, and the states of VMs that do not run."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.planning.instance import plan_instance
from kigi.planning.steps import ApplyObject
from kigi.planning.view import InstanceView
from kigi.status.instance import instance_status
from tests.support.worlds import World, deployment_spec, with_machines


def world(**fields: Any) -> World:
    """State a: web starts after db."""
    return World(deployment_spec("a", **fields))


def machine(w: World, name: str = "web") -> tuple[str, str | None]:
    """State and message of a machine."""
    status = instance_status(w.view(), plan_instance(w.view()))
    return next((m.state, m.message) for m in status.machines if m.name == name)


def advance(w: World, until: Any) -> None:
    """Lets everybody act, one move at a time, until something holds."""
    for _ in range(500):
        if until():
            return
        w.node_cache_pass()
        for step in w.plan().steps[:1]:
            w.apply(step)
        for move in list(w.moves())[:1]:
            w.move(*move)
    raise AssertionError("it never came")


def test_a_machine_starts_when_those_before_it_are_ready() -> None:
    w = world()
    advance(w, lambda: "dep-0-web" in w.vms and "dep-0-db" in w.vmis)
    assert w.vmis["dep-0-db"].phase == "Scheduling"
    assert not w.vms["dep-0-web"].running
    assert machine(w) == ("Waiting", "starts after db")
    advance(w, lambda: "dep-0-web" in w.vmis)
    assert w.vmis["dep-0-db"].phase == "Running"
    w.settle()
    assert machine(w) == ("Running", None)


def test_a_reset_restarts_machines_in_boot_order() -> None:
    w = world()
    w.settle()
    old = w.vmis["dep-0-web"].uid
    w.change(resetToken="again")
    advance(w, lambda: w.vmis.get("dep-0-web") and w.vmis["dep-0-web"].uid != old)
    assert w.vmis["dep-0-db"].phase == "Running"
    assert w.vmis["dep-0-db"].claim.endswith(".r2")
    w.settle()
    w.check_settled()


def test_a_running_machine_is_not_stopped_when_a_machine_before_it_fails() -> None:
    w = world()
    w.settle()
    del w.vmis["dep-0-db"]
    assert not any(isinstance(s, ApplyObject) and s.manifest["kind"] == "VirtualMachine" for s in w.plan().steps)
    assert machine(w) == ("Running", None)


def test_a_machine_that_is_switched_off_does_not_hold_others_back() -> None:
    w = world()
    w.change_instance("0", machines=[{"name": "db", "powerState": "Off"}])
    w.settle()
    assert machine(w) == ("Running", None)
    assert machine(w, "db") == ("Stopped", None)


def strategies(view: InstanceView) -> list[str]:
    """Run strategies that the plan gives to VMs."""
    applied = [step.manifest for step in plan_instance(view).steps if isinstance(step, ApplyObject)]
    return [each["spec"]["runStrategy"] for each in applied if each["kind"] == "VirtualMachine"]


def test_a_terminating_vm_is_switched_on_after_its_vmi_has_ended() -> None:
    """KubeVirt forgets to start a VM of strategy RerunOnFailure that is turned on while its instance is ending."""
    w = world()
    w.settle()
    view = with_machines(w.view(), "web", vm={"running": False}, vmi_deleting=True)
    assert strategies(view) == []
    assert strategies(with_machines(view, "web", is_off=True)) == ["Always"]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"vmi": {"paused": True}}, "Paused"),
        ({"vmi": {"phase": "Succeeded", "ready": False}}, "PoweredOff"),
        ({"is_off": True, "vm": {"printable_status": "Stopped"}}, "PoweredOff"),
        ({"vmi": {"phase": "Failed", "ready": False}}, "Failed"),
        ({"vmi": {"ready": False}, "vm": {"printable_status": "CrashLoopBackOff"}}, "CrashLooping"),
        (
            {"vmi": {"ready": False}, "vm": {"printable_status": "ErrorUnschedulable", "message": "0/1 nodes"}},
            "Unschedulable",
        ),
        ({"vmi": {"ready": False}, "vm": {"printable_status": "Running"}}, "Starting"),
    ],
)
def test_the_state_of_a_vm_that_is_not_ready_names_its_problem(fields: dict[str, Any], state: str) -> None:
    w = world()
    w.settle()
    view = with_machines(w.view(), "web", **fields)
    status = instance_status(view, plan_instance(view))
    web = next(m for m in status.machines if m.name == "web")
    assert web.state == state
    assert status.summary == "1/2"
    assert next(c.status for c in status.conditions if c.type == "Ready") == "False"
    if "message" in fields.get("vm", {}):
        assert web.message == fields["vm"]["message"]
