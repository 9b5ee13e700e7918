"""The plan of one SystemDeployment: its SystemInstances. Everything below them is planned per instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kigi.api.deployment import NamedInstance, SystemDeploymentSpec
from kigi.domain import kinds, names
from kigi.domain.names import instance_order
from kigi.planning.cleanup import leftover_steps
from kigi.planning.deployment_view import DeploymentView, ObservedInstance
from kigi.planning.steps import AddFinalizer, ApplyObject, DeleteObject, Plan, RemoveFinalizer, Step


def plan_deployment(view: DeploymentView) -> Plan:
    """Next steps that give the deployment exactly the instances that its spec selects. O(instances).

    Every prefix of the steps is a safe place to stop: names are deterministic, so that no instance is created twice,
    and an instance is created only after everything that a former one of its name has left is gone. After an upgrade
    from v1alpha1, it takes over what the deployment itself has created. Deletion does not need a readable spec.
    """
    if view.deleting:
        return _plan_deletion(view)
    if not isinstance(view.spec, SystemDeploymentSpec):
        return Plan()
    steps: list[Step] = []
    if not view.has_finalizer:
        steps.append(AddFinalizer(view.namespace, view.name, kinds.DEPLOYMENT))
    spec = view.spec
    leftovers = [one for one in view.leftovers if not (one.awaits_instance and spec.selects(one.name))]
    steps += _create_missing(view, spec, {objects.name for objects in leftovers})
    steps += _delete_instances(view, [one for one in view.instances if not _is_wanted(view, spec, one)])
    steps += [step for objects in leftovers for step in leftover_steps(objects)]
    return Plan(steps=tuple(steps))


def build_instance(view: DeploymentView, name: str, named: NamedInstance | None) -> dict[str, Any]:
    """SystemInstance of that name. The operator never changes its spec afterwards."""
    labels = dict(named.labels or {}) if named is not None else {}
    return {
        "apiVersion": names.API_VERSION,
        "kind": kinds.INSTANCE,
        "metadata": {
            "name": names.instance_object(view.name, name),
            "namespace": view.namespace,
            "labels": {**labels, names.LABEL_DEPLOYMENT: view.name, names.LABEL_INSTANCE: name},
            "finalizers": [names.INSTANCE_FINALIZER],
            "ownerReferences": [
                {
                    "apiVersion": names.API_VERSION,
                    "kind": kinds.DEPLOYMENT,
                    "name": view.name,
                    "uid": view.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {"deploymentRef": {"name": view.name}, "name": name},
    }


def _create_missing(view: DeploymentView, spec: SystemDeploymentSpec, left: set[str]) -> Iterator[Step]:
    """Creates the selected instances that do not exist, first ones first. ``left``: names of former ones."""
    occupied = {one.name for one in view.instances} | left
    named: Mapping[str, NamedInstance] = {one.name: one for one in spec.instances or ()}
    for name in spec.instance_names():
        if name not in occupied:
            yield ApplyObject(build_instance(view, name, named.get(name)))


def _is_wanted(view: DeploymentView, spec: SystemDeploymentSpec, instance: ObservedInstance) -> bool:
    """False for an instance that the spec does not select any more, and for one of a former deployment.

    An instance that a user created for another name is left alone: it has no owner and has started nothing, and its own
    status explains that.
    """
    if not instance.is_of(view.uid):
        return False
    return spec.selects(instance.name) or not (instance.owner_uids or instance.has_finalizer)


def _delete_instances(view: DeploymentView, instances: list[ObservedInstance]) -> Iterator[Step]:
    """Deletes instances, the last ones first."""
    for instance in sorted(instances, key=lambda one: instance_order(one.name), reverse=True):
        if not instance.deleting:
            yield DeleteObject(kinds.INSTANCE, instance.object_name, view.namespace)


def _plan_deletion(view: DeploymentView) -> Plan:
    """Deletes the instances and what force-deleted ones have left, and then lets the deployment go."""
    if not view.has_finalizer:
        return Plan()
    steps = list(_delete_instances(view, list(view.instances)))
    steps += [step for objects in view.leftovers for step in leftover_steps(objects)]
    left = len(view.instances) + len(view.leftovers)
    if left:
        return Plan(steps=tuple(steps), waiting_for=f"the deletion of {left} instances")
    return Plan(steps=(RemoveFinalizer(view.namespace, view.name, kinds.DEPLOYMENT),))
