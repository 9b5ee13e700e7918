"""A changed template restarts the VM; its disk stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.names import ANNOTATION_HARDWARE_HASH, HOOK_SIDECARS
from kigi.planning.instance import InstancePlan, plan_instance
from kigi.planning.steps import ApplyObject, RestartMachine, Step
from kigi.planning.view import InstanceView, MachineState
from kigi.status.instance import instance_status
from tests.support.worlds import World, deployment_spec, with_machines

WEB = "dep-0-web"


def settled(**fields: Any) -> World:
    """State b, from which a switch to c changes web's template alone."""
    strategy = {"onSwitch": "ReplaceChanged", "onEdit": "Immediate"}
    w = World(deployment_spec("b", updateStrategy=strategy, **fields))
    w.settle()
    return w


def restarts(steps: tuple[Step, ...]) -> list[tuple[str, bool]]:
    """VM, and whether its guest is given time."""
    return [(step.name, step.gracefully) for step in steps if isinstance(step, RestartMachine)]


def machine(view: InstanceView, plan: InstancePlan, name: str = "web") -> tuple[str, str | None]:
    """State and message."""
    status = instance_status(view, plan)
    return next((m.state, m.message) for m in status.machines if m.name == name)


def is_ready(view: InstanceView) -> bool:
    status = instance_status(view, plan_instance(view))
    return any(c.type == "Ready" and c.status == "True" for c in status.conditions)


def web(view: InstanceView) -> MachineState:
    return next(m for m in view.machines if m.vm.machine == "web")


def apply_vms(w: World) -> None:
    """The templates alone, as if the operator died before the restarts."""
    for step in w.plan().steps:
        if isinstance(step, ApplyObject):
            w.apply(step)


def test_a_switch_that_changes_the_template_alone_restarts_the_machine_on_its_disk() -> None:
    w = settled()
    before, disk = w.vmis[WEB].uid, w.overlay_times()["0", "web"]
    w.change(systemRef={"name": "c"})
    assert not is_ready(w.view())
    apply_vms(w)
    assert not is_ready(w.view())
    assert machine(w.view(), w.plan())[0] == "Restarting"
    assert restarts(w.plan().steps) == [(WEB, True)]
    w.settle()
    assert is_ready(w.view())
    assert w.vmis[WEB].uid != before
    assert w.overlay_times()["0", "web"] == disk
    assert w.vms[WEB].manifest["spec"]["template"]["spec"]["domain"]["memory"] == {"guest": "1Gi"}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"hardware": {"memory": {"guest": "2Gi"}}}, id="memory"),
        pytest.param({"hardware": {"interfaces": []}}, id="interfaces"),
        pytest.param({"hardware": {"cpu": {"model": "host-model"}}}, id="cpu-model"),
        pytest.param({"readinessProbe": {"tcpSocket": {"port": 22}}}, id="readiness"),
        pytest.param({"patch": {"merge": {"spec": {"subdomain": "x"}}}}, id="patch"),
        pytest.param({"patch": {"remove": ["spec.evictionStrategy"]}}, id="removed"),
        pytest.param({"rootDisk": {"bus": "sata"}}, id="bus"),
    ],
)
def test_an_edit_of_the_running_state_restarts_its_machine_once(settings: dict[str, Any]) -> None:
    w = settled()
    db, disks = w.vmis["dep-0-db"].uid, w.overlay_times()
    w.edit("b", "web", **settings)
    apply_vms(w)
    assert restarts(w.plan().steps) == [(WEB, True)]
    w.settle()
    assert is_ready(w.view())
    assert (w.vmis["dep-0-db"].uid, w.overlay_times()) == (db, disks)


def test_a_state_of_one_machine_restarts_it_alone() -> None:
    w = settled(replicas=2)
    other = w.vmis["dep-1-web"].uid
    w.change_instance("0", machines=[{"name": "web", "systemRef": {"name": "c"}}])
    apply_vms(w)
    assert restarts(w.plan().steps) == [(WEB, True)]
    w.settle()
    assert w.vmis["dep-1-web"].uid == other


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"unset": ("startAfter",)}, id="after"),
        pytest.param({"guestPowerOffPolicy": "StayOff"}, id="power-off"),
    ],
)
def test_fields_that_define_when_a_machine_starts_do_not_restart_it(settings: dict[str, Any]) -> None:
    w = settled()
    w.edit("b", "web", **settings)
    apply_vms(w)
    assert restarts(w.plan().steps) == []


def test_another_hook_image_or_kind_is_applied_and_restarts_nothing() -> None:
    w = settled()
    for view, image in (
        (w.view(), "kigi:next"),
        (replace(w.view(), kubevirt=KubeVirtState("1.9.0", "Plugin")), ""),
    ):
        plan = plan_instance(view, hook_image=image)
        assert {type(step) for step in plan.steps} == {ApplyObject}
        for step in plan.steps:
            assert isinstance(step, ApplyObject)
            w.vms[step.manifest["metadata"]["name"]].manifest = step.manifest
        seen = with_machines(view, "web", vm={"hardware": w.vms[WEB].annotations[ANNOTATION_HARDWARE_HASH]})
        assert restarts(plan_instance(seen, hook_image=image).steps) == []
        assert machine(seen, plan_instance(seen))[0] == "Running"


def test_a_vmi_without_a_hardware_hash_is_not_restarted() -> None:
    w = settled()
    assert w.plan().steps == ()
    view = with_machines(w.view(), "web", vm={"hardware": ""}, vmi={"hardware": ""})
    plan = plan_instance(view)
    assert {type(step) for step in plan.steps} == {ApplyObject}
    assert is_ready(with_machines(w.view(), "web", vmi={"hardware": ""}))
    w.change(systemRef={"name": "c"})
    apply_vms(w)
    assert restarts(plan_instance(with_machines(w.view(), "web", vmi={"hardware": ""})).steps) == []


def test_a_change_that_is_reverted_in_time_restarts_nothing() -> None:
    w = settled()
    w.edit("b", "web", hardware={"memory": {"guest": "2Gi"}})
    apply_vms(w)
    w.edit("b", "web", hardware={"memory": {"guest": "512Mi"}})
    w.edit("b", "web", memory=None)
    assert restarts(w.plan().steps) == []
    w.settle()
    assert is_ready(w.view())


@pytest.mark.parametrize(
    ("changes", "state", "message"),
    [
        pytest.param(
            {"vmi": {"paused": True}}, "Paused", "its hardware has changed; it restarts when it is resumed", id="paused"
        ),
        pytest.param({"vmi": {"phase": "Succeeded", "ready": False}}, "PoweredOff", None, id="powered-off"),
        pytest.param({"vmi_deleting": True}, "Restarting", None, id="on-its-way"),
    ],
)
def test_a_paused_or_finished_machine_is_not_restarted_for_its_template(
    changes: dict[str, Any], state: str, message: str | None
) -> None:
    w = settled()
    w.change(systemRef={"name": "c"})
    apply_vms(w)
    view = with_machines(w.view(), "web", **changes)
    plan = plan_instance(view)
    assert WEB not in dict(restarts(plan.steps))
    assert machine(view, plan) == (state, message)
    assert not is_ready(view)


def test_an_unschedulable_machine_restarts_with_a_smaller_template() -> None:
    w = settled()
    w.edit("b", "web", hardware={"memory": {"guest": "16Mi"}})
    apply_vms(w)
    view = with_machines(w.view(), "web", vmi={"phase": "Scheduling", "ready": False})
    assert restarts(plan_instance(view).steps) == [(WEB, True)]


def test_a_vmi_on_a_replaced_disk_gets_no_grace_period() -> None:
    w = settled()
    w.change(resetToken="1")
    while not (found := restarts(w.plan().steps)):
        w.node_cache_pass()
        for step in w.plan().steps:
            w.apply(step)
    assert {grace for _, grace in found} == {False}


@pytest.mark.parametrize("annotation", [HOOK_SIDECARS, ANNOTATION_HARDWARE_HASH])
def test_an_annotation_that_is_removed_from_a_template_is_restored(annotation: str) -> None:
    w = settled()
    lost = {HOOK_SIDECARS: "sidecars", ANNOTATION_HARDWARE_HASH: "hardware"}[annotation]
    plan = plan_instance(with_machines(w.view(), "web", vm={lost: ""}))
    assert [step.manifest["metadata"]["name"] for step in plan.steps if isinstance(step, ApplyObject)] == [WEB]
    assert len(plan.steps) == 1
    assert web(w.view()).vm.sidecars == w.vms[WEB].annotations[HOOK_SIDECARS]
