"""A VM that KubeVirt refuses because of a ghost record stays off until the record is dropped."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from kigi.domain.names import ANNOTATION_HALTED_UNTIL
from kigi.mirror.parse_values import time_of as _time
from kigi.planning.instance import InstancePlan, plan_instance
from kigi.planning.machines import FORGOTTEN_AFTER
from kigi.planning.steps import ApplyObject
from kigi.planning.view import InstanceView
from kigi.status.instance import instance_status
from tests.support.worlds import World, deployment_spec, with_machines


@pytest.fixture
def view() -> InstanceView:
    w = World(deployment_spec("a"))
    w.settle()
    return w.view()


def with_first(view: InstanceView, **changes: Any) -> InstanceView:
    return with_machines(view, view.machines[0].vm.machine, **changes)


def stuck(view: InstanceView, **vm: Any) -> InstanceView:
    vmi = {"blocked_by_ghost_record": True, "phase": "Scheduled", "ready": False}
    return with_first(view, vm={"printable_status": "Starting", **vm}, vmi=vmi)


def off(view: InstanceView, until: datetime) -> InstanceView:
    vm = {"running": False, "halted_until": until, "printable_status": "Stopped"}
    return with_first(view, vm=vm, is_off=True)


def vms(view: InstanceView) -> list[tuple[str, str | None]]:
    """runStrategy and annotation of each VM that is applied."""
    plan = plan_instance(view)
    objects = [s.manifest for s in plan.steps if isinstance(s, ApplyObject) and s.manifest["kind"] == "VirtualMachine"]
    return [(o["spec"]["runStrategy"], o["metadata"]["annotations"].get(ANNOTATION_HALTED_UNTIL)) for o in objects]


def state(view: InstanceView) -> tuple[str, str | None]:
    plan: InstancePlan = plan_instance(view)
    status = instance_status(view, plan, None)
    machines = {machine.name: machine for machine in status.machines}
    found = machines[view.machines[0].vm.machine]
    return found.state, found.message


def test_a_blocked_vm_is_halted_and_reports_the_reason(view: InstanceView) -> None:
    until = view.now + FORGOTTEN_AFTER
    assert vms(stuck(view)) == [("Halted", until.isoformat())]
    word, message = state(stuck(view))
    assert (word, "ghost record" in str(message)) == ("Restarting", True)


def test_a_halted_vm_needs_no_steps_while_it_ends_and_waits(view: InstanceView) -> None:
    until = view.now + timedelta(seconds=12)
    assert vms(stuck(view, running=False, halted_until=until)) == []
    assert vms(off(view, until)) == []
    assert state(off(view, until))[0] == "Restarting"


def test_a_halted_vm_starts_when_its_time_is_over(view: InstanceView) -> None:
    assert vms(off(view, view.now)) == [("Always", None)]
    assert vms(off(view, view.now - timedelta(days=1))) == [("Always", None)]


def test_an_expired_time_does_not_affect_a_running_vm(view: InstanceView) -> None:
    assert vms(with_first(view, vm={"halted_until": view.now - timedelta(seconds=1)})) == []


@pytest.mark.parametrize("value", [None, "", "soon", "2026-11-25", "2026-11-25T10:00:00"])
def test_an_annotation_that_is_not_a_time_has_no_effect(value: object) -> None:
    assert _time(value) is None
