"""Deletion of what a deployment does not need any more, and of everything when it is deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.deployment import SystemDeploymentSpec
from kigi.planning.cleanup import plan_teardown
from kigi.planning.deployment import plan_deployment
from kigi.planning.steps import DeleteObject, RemoveFinalizer
from kigi.planning.view import DeploymentView
from tests.support.worlds import World


def settled(**fields: Any) -> World:
    w = World(SystemDeploymentSpec.model_validate({"system": {"name": "a"}, **fields}))
    w.settle()
    return w


def deleted(view: DeploymentView) -> list[str]:
    return [step.name for step in plan_deployment(view).steps if isinstance(step, DeleteObject)]


def foreign(view: DeploymentView) -> DeploymentView:
    """The view in which the VMs belong to another deployment of the same name."""
    machines = tuple(replace(state, vm=replace(state.vm, owner_uid="other")) for state in view.machines)
    return replace(view, machines=machines)


def test_machines_of_a_removed_instance_are_deleted_and_their_disks_stay_while_the_vm_exists() -> None:
    w = settled(replicas=2)
    w.change(replicas=1)
    assert sorted(deleted(w.view())) == ["dep-1-db", "dep-1-web"]


def test_disks_of_a_removed_instance_are_deleted_after_its_vms_claims_first() -> None:
    w = settled(replicas=2)
    w.change(replicas=1)
    view = replace(w.view(), machines=tuple(m for m in w.view().machines if m.vm.instance == 0))
    claims, volumes = deleted(view)[:2], deleted(view)[2:]
    assert sorted(claims) == ["dep.1.db.r1", "dep.1.web.r1"]
    assert sorted(volumes) == ["kigi.ns.dep.1.db.r1", "kigi.ns.dep.1.web.r1"]


def test_a_vm_of_another_deployment_of_the_same_name_is_never_deleted() -> None:
    w = settled(replicas=2)
    w.change(replicas=1)
    assert not [name for name in deleted(foreign(w.view())) if name.startswith("dep-")]


def test_a_machine_that_no_node_can_take_keeps_its_disk() -> None:
    w = settled()
    w.change(reset="1", placement={"nodeSelector": {"pool": "none"}})
    assert deleted(w.view()) == []


def test_objects_that_are_terminating_are_not_deleted_again() -> None:
    w = settled(replicas=2)
    w.change(replicas=1)
    for step in w.plan().steps:
        w.apply(step)
    assert deleted(w.view()) == []


def test_teardown_deletes_one_kind_after_the_other_and_the_finalizer_last() -> None:
    w = settled(isolation="Instances")
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
    assert plan_teardown(empty).steps == (RemoveFinalizer("ns", "dep"),)
    assert plan_teardown(replace(empty, has_finalizer=False)).steps == ()


@pytest.mark.parametrize("field", ["machines", "policies"])
def test_teardown_does_not_wait_for_objects_of_another_owner(field: str) -> None:
    w = settled(isolation="Instances")
    view = replace(w.view(), claims=(), volumes=(), **({"machines": ()} if field == "policies" else {"policies": ()}))
    if field == "machines":
        view = foreign(view)
    else:
        view = replace(view, policies=tuple(replace(policy, owner_uid="other") for policy in view.policies))
    assert plan_teardown(view).steps == (RemoveFinalizer("ns", "dep"),)
