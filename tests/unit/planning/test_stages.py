"""The stages of a plan: their order, and what each one waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.errors import HookPending, HookUnavailable
from kigi.planning.instance import STAGES, plan_instance
from kigi.planning.steps import AddFinalizer, ApplyObject, DeleteObject, RestartMachine, Step
from kigi.planning.targets import machine_targets
from kigi.planning.view import InstanceView
from tests.support.worlds import World, deployment_spec, with_machines


def world(**fields: Any) -> World:
    return World(deployment_spec("a", **fields))


def settled(**fields: Any) -> World:
    w = world(**fields)
    w.settle()
    return w


def with_all_layers(view: InstanceView) -> InstanceView:
    """Every node holds every layer that the spec's state needs."""
    layers = frozenset(digest for target in machine_targets(view) for digest in target.blueprint.layers)
    return replace(view, nodes={name: replace(state, held=layers) for name, state in view.nodes.items()})


def kind(step: Step) -> str:
    if isinstance(step, ApplyObject):
        return f"apply {step.manifest['kind']}"
    return f"delete {step.kind}" if isinstance(step, DeleteObject) else type(step).__name__


def kinds(view: InstanceView) -> list[str]:
    """Kinds of the plan's steps, each run of equal ones once."""
    found = [kind(step) for step in plan_instance(view).steps]
    return [one for number, one in enumerate(found) if number == 0 or found[number - 1] != one]


def test_each_stage_states_why_it_is_safe() -> None:
    assert len({stage.__name__ for stage in STAGES}) == len(STAGES)
    assert all("\n\n    Safe: " in (stage.__doc__ or "") for stage in STAGES)


def test_a_first_plan_creates_disks_before_the_machines_that_use_them() -> None:
    view = with_all_layers(world(replicas=2, isolation={"mode": "None"}).view())
    assert kinds(view) == [
        "AddFinalizer",
        "apply PersistentVolume",
        "apply PersistentVolumeClaim",
        "apply VirtualMachine",
    ]
    assert isinstance(plan_instance(view).steps[0], AddFinalizer)


def test_policies_precede_volumes_and_machines_wait_for_the_policy() -> None:
    view = with_all_layers(world(isolation={"mode": "Instance"}).view())
    assert kinds(view)[1:3] == ["apply NetworkPolicy", "apply PersistentVolume"]
    assert "apply VirtualMachine" not in kinds(view)


def test_a_reset_requests_the_disk_first_and_touches_the_machine_when_its_layers_are_there() -> None:
    w = settled()
    w.change(systemRef={"name": "b"})
    assert kinds(w.view()) == ["apply PersistentVolume", "apply PersistentVolumeClaim"]
    assert kinds(with_all_layers(w.view())) == [
        "apply PersistentVolume",
        "apply PersistentVolumeClaim",
        "apply VirtualMachine",
    ]


def test_a_vmi_is_deleted_only_after_its_vm_names_the_new_disk() -> None:
    w = settled()
    w.change(resetToken="1")
    steps = plan_instance(w.view()).steps
    assert not [step for step in steps if isinstance(step, RestartMachine)]
    for step in steps:
        w.apply(step)
    restarted = [step.name for step in w.plan().steps if isinstance(step, RestartMachine)]
    assert sorted(restarted) == ["dep-0-db", "dep-0-web"]


def test_a_disk_is_deleted_only_after_neither_vm_nor_vmi_names_it() -> None:
    w = settled()
    w.change(resetToken="1")
    for step in w.plan().steps:
        w.apply(step)
    assert not [step for step in w.plan().steps if isinstance(step, DeleteObject)]
    without_vmis = with_machines(w.view(), is_off=True)
    deleted = [step.name for step in plan_instance(without_vmis).steps if isinstance(step, DeleteObject)]
    assert sorted(deleted) == ["dep.0.db.r1", "dep.0.web.r1", "kigi.ns.dep.0.db.r1", "kigi.ns.dep.0.web.r1"]


@pytest.mark.parametrize(("pending", "error"), [(True, HookPending), (False, HookUnavailable)])
def test_without_a_hook_disks_are_created_and_no_vm(pending: bool, error: type[Exception]) -> None:
    view = with_all_layers(world().view())
    plan = plan_instance(replace(view, kubevirt=replace(view.kubevirt, hook=None, pending=pending, why_not="no")))
    assert isinstance(plan.error, error)
    assert {kind(step) for step in plan.steps} == {
        "AddFinalizer",
        "apply PersistentVolume",
        "apply PersistentVolumeClaim",
    }


def test_a_foreign_vm_stops_only_the_machines_after_it() -> None:
    w = settled(systemRef={"name": "c"}, updateStrategy={"onEdit": "Immediate"})
    w.edit("c", "web", hardware={"memory": {"guest": "3Gi"}})
    w.edit("c", "extra", hardware={"memory": {"guest": "3Gi"}})
    view = with_all_layers(w.view())
    foreign = [
        replace(state, vm=replace(state.vm, owner_uid="")) if state.vm.meta.name == "dep-0-web" else state
        for state in view.machines
    ]
    plan = plan_instance(replace(view, machines=tuple(foreign)))
    assert plan.error is not None
    assert plan.error.reason == "NameTaken"
    applied = [step.manifest["metadata"]["name"] for step in plan.steps if isinstance(step, ApplyObject)]
    assert applied == ["dep-0-extra"]


def test_instances_of_one_state_share_their_blueprints() -> None:
    w = world(replicas=30)
    systems = w.view().systems
    targets = [t for name in w.instances for t in machine_targets(replace(w.view(name), systems=systems))]
    assert len(targets) == 60
    assert len({target.blueprint.template_hash for target in targets}) == 2
    first = {target.machine: target.blueprint for target in targets[:2]}
    assert all(target.blueprint is first[target.machine] for target in targets)
    other = machine_targets(replace(w.view(), systems=systems), hook_image="another")
    assert not any(target.blueprint is first[target.machine] for target in other)


def test_a_target_carries_the_names_of_its_vm_claims_and_volumes() -> None:
    placed = next(p for p in plan_instance(world(systemRef={"name": "b"}).view()).placed if p.target.machine == "db")
    assert placed.target.vm_name == "dep-0-db"
    assert [disk.claim for disk in placed.disks] == ["dep.0.db.r1", "dep.0.db.r1.data", "dep.0.db.r1.logs"]
    assert [disk.volume for disk in placed.disks] == [f"kigi.ns.{disk.claim}" for disk in placed.disks]
    assert placed.claim == placed.disks[0].claim
