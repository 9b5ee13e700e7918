"""Deletion of what an instance does not need any more, and of everything when it is deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.planning.cleanup import plan_teardown
from kigi.planning.instance import plan_instance
from kigi.planning.steps import ApplyObject, DeleteObject, RemoveFinalizer
from kigi.planning.view import InstanceView
from tests.support.worlds import UID, World, deployment_spec


def settled(state: str = "a", **fields: Any) -> World:
    w = World(deployment_spec(state, **fields))
    w.settle()
    return w


def deleted(view: InstanceView) -> list[str]:
    return [step.name for step in plan_instance(view).steps if isinstance(step, DeleteObject)]


def foreign(view: InstanceView, owner_uid: str = "") -> InstanceView:
    """The view in which the VMs have another owner, by default a user."""
    machines = tuple(replace(state, vm=replace(state.vm, owner_uid=owner_uid)) for state in view.machines)
    return replace(view, machines=machines)


def switched() -> World:
    """State b on its way to c, which has no db but the machine extra."""
    w = settled("b")
    w.change(systemRef={"name": "c"})
    return w


def test_machines_that_the_state_lacks_are_deleted_and_their_disks_stay_while_the_vm_exists() -> None:
    assert deleted(switched().view()) == ["dep-0-db"]


def test_disks_of_a_removed_machine_are_deleted_after_its_vm_claims_first() -> None:
    view = switched().view()
    view = replace(view, machines=tuple(m for m in view.machines if m.vm.machine != "db"))
    names = [f"dep.0.db.r1{disk}" for disk in ("", ".data", ".logs")]
    assert sorted(deleted(view)[:3]) == names
    assert sorted(deleted(view)[3:]) == [f"kigi.ns.{name}" for name in names]


def test_a_vm_of_a_user_is_never_deleted() -> None:
    assert not [name for name in deleted(foreign(switched().view())) if name.startswith("dep-")]


def test_a_vm_of_a_former_instance_of_the_name_is_deleted_before_it_gets_another() -> None:
    view = foreign(settled().view(), "a-former-instance")
    plan = plan_instance(view)
    assert sorted(name for name in deleted(view) if name.startswith("dep-")) == ["dep-0-db", "dep-0-web"]
    assert not [s for s in plan.steps if isinstance(s, ApplyObject) and s.manifest["kind"] == "VirtualMachine"]
    assert plan.error is None


@pytest.mark.parametrize(("owner_uid", "is_fresh"), [(UID, False), ("another", True), ("", True)])
def test_disks_from_before_there_were_instances_belong_to_the_deployment(owner_uid: str, is_fresh: bool) -> None:
    view = settled().view()
    view = replace(view, volumes=tuple(replace(volume, owner_uid=owner_uid) for volume in view.volumes))
    assert {placed.is_new for placed in plan_instance(view).placed} == {is_fresh}


def test_a_machine_that_no_node_can_take_keeps_its_disk() -> None:
    w = settled()
    w.change(resetToken="1", placement={"nodeSelector": {"pool": "none"}})
    assert deleted(w.view()) == []


def test_objects_that_are_terminating_are_not_deleted_again() -> None:
    w = switched()
    for step in w.plan().steps:
        w.apply(step)
    assert deleted(w.view()) == []


def test_teardown_deletes_one_kind_after_the_other_and_the_finalizer_last() -> None:
    w = settled(isolation={"mode": "Instance"})
    view = w.view()
    without_vms = replace(view, machines=())
    phases = [
        (view, "VirtualMachine", "the deletion of 2 VirtualMachines"),
        (without_vms, "PersistentVolumeClaim", "the deletion of 2 claims and 2 volumes from their nodes"),
        (replace(without_vms, claims=(), volumes=()), "NetworkPolicy", "the deletion of 1 NetworkPolicies"),
    ]
    for seen, first, waiting_for in phases:
        plan = plan_teardown(seen)
        assert isinstance(plan.steps[0], DeleteObject)
        assert (plan.steps[0].kind, plan.waiting_for) == (first, waiting_for)
    empty = replace(view, machines=(), claims=(), volumes=(), policies=())
    assert plan_teardown(empty).steps == (RemoveFinalizer("ns", "dep-0", "SystemInstance"),)
    assert plan_teardown(replace(empty, has_finalizer=False)).steps == ()


@pytest.mark.parametrize("field", ["machines", "policies"])
def test_teardown_does_not_wait_for_objects_of_another_owner(field: str) -> None:
    w = settled(isolation={"mode": "Instance"})
    view = replace(w.view(), claims=(), volumes=(), **({"machines": ()} if field == "policies" else {"policies": ()}))
    if field == "machines":
        view = foreign(view, "other")
    else:
        view = replace(view, policies=tuple(replace(policy, owner_uid="other") for policy in view.policies))
    assert plan_teardown(view).steps == (RemoveFinalizer("ns", "dep-0", "SystemInstance"),)
