"""After an upgrade from v1alpha1: a deployment's VMs and disks without SystemInstances are taken over, not deleted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kigi.domain import kinds
from kigi.planning.deployment import plan_deployment
from kigi.planning.deployment_view import DeploymentView
from kigi.planning.steps import ApplyObject, DeleteObject
from kigi.planning.view import InstanceObjects
from tests.support.worlds import World, deployment_spec


def owned_by(objects: InstanceObjects, uid: str) -> InstanceObjects:
    """Everything was created by the object with that uid."""
    return replace(
        objects,
        volumes=tuple(replace(one, owner_uid=uid) for one in objects.volumes),
        machines=tuple(replace(one, vm=replace(one.vm, owner_uid=uid)) for one in objects.machines),
        policies=tuple(replace(one, owner_uid=uid) for one in objects.policies),
    )


@pytest.fixture
def view() -> DeploymentView:
    """A deployment whose instance 1 runs, and has no SystemInstance."""
    world = World(deployment_spec(replicas=2))
    world.settle()
    world.lose_instance("1")
    found = world.deployment_view()
    assert [one.name for one in found.leftovers] == ["1"]
    assert found.leftovers[0].volumes
    assert found.leftovers[0].machines
    return found


def with_owner(view: DeploymentView, uid: str) -> DeploymentView:
    return replace(view, leftovers=tuple(owned_by(one, uid) for one in view.leftovers))


def created(view: DeploymentView) -> list[str]:
    steps = plan_deployment(view).steps
    return [step.manifest["spec"]["name"] for step in steps if isinstance(step, ApplyObject)]


def deleted(view: DeploymentView) -> list[str]:
    return [step.kind for step in plan_deployment(view).steps if isinstance(step, DeleteObject)]


def test_what_the_deployment_itself_created_is_taken_over(view: DeploymentView) -> None:
    old = with_owner(view, view.leftovers[0].deployment_uid)
    assert (created(old), deleted(old)) == (["1"], [])


@pytest.mark.parametrize("uid", ["of a former instance", "of a former deployment"])
def test_what_a_former_object_left_is_deleted_first(view: DeploymentView, uid: str) -> None:
    left = with_owner(view, uid)
    assert created(left) == []
    assert kinds.MACHINE in deleted(left)


def test_a_mixture_is_deleted_first(view: DeploymentView) -> None:
    (objects,) = with_owner(view, view.leftovers[0].deployment_uid).leftovers
    foreign = (replace(objects.volumes[0], owner_uid="of a former instance"), *objects.volumes[1:])
    mixed = replace(view, leftovers=(replace(objects, volumes=foreign),))
    assert (created(mixed), kinds.MACHINE in deleted(mixed)) == ([], True)


def test_an_instance_that_is_not_asked_for_any_more_is_deleted(view: DeploymentView) -> None:
    old = replace(with_owner(view, view.leftovers[0].deployment_uid), spec=deployment_spec(replicas=1))
    assert created(old) == []
    assert kinds.MACHINE in deleted(old)


def test_a_deployment_that_is_deleted_deletes_it(view: DeploymentView) -> None:
    old = replace(with_owner(view, view.leftovers[0].deployment_uid), deleting=True)
    assert kinds.MACHINE in deleted(old)
