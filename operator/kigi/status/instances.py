"""Every instance and machine of a deployment, shortened where the status would not fit into one object."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from kigi.api.deployment import InstanceStatus, SystemDeploymentStatus
from kigi.planning.deployment import DeploymentPlan
from kigi.planning.placed import PlacedTarget
from kigi.planning.view import DeploymentView
from kigi.status.machines import machine_status

_ALWAYS_FIT = 2000
"""Machines that fit into one object with the longest names and messages."""
_INSTANCES_BYTES = 1_100_000
"""JSON of all instances: etcd limits an object to 1.5 MiB, and spec and history need a third of that."""


def instance_statuses(view: DeploymentView, plan: DeploymentPlan) -> list[InstanceStatus]:
    """Status of every instance that has a placed machine, by index. O(machines)."""
    by_instance: dict[int, list[PlacedTarget]] = defaultdict(list)
    for placed in plan.placed:
        by_instance[placed.target.instance].append(placed)
    overrides = {override.instance: override for override in view.spec.overrides}
    old = view.old_status or SystemDeploymentStatus()
    messages = _start_messages(old)
    reasons = {instance.instance: instance.placement for instance in old.instances}
    statuses: list[InstanceStatus] = []
    for instance, members in sorted(by_instance.items()):
        override = overrides.get(instance)
        machines = [machine_status(p, messages.get((instance, p.target.machine, p.revision))) for p in members]
        desired = ["Running" if p.target.running else "Stopped" for p in members]
        statuses.append(
            InstanceStatus(
                instance=instance,
                ready=[machine.state for machine in machines] == desired,
                system=(override.system if override and override.system else view.spec.system).name,
                placement=next((p.why for p in members if p.why), None) or reasons.get(instance),
                machines=machines,
            )
        )
    return statuses


def shorten_to_fit(
    instances: Sequence[InstanceStatus], limit_bytes: int = _INSTANCES_BYTES, always: int = _ALWAYS_FIT
) -> list[InstanceStatus]:
    """The instances in their order, ready ones shortened first, until their JSON has at most ``limit_bytes``.

    ``always``: number of machines up to which no size is computed. The omitted fields can be read elsewhere: the node
    from the volume, the system from the instance. O(machines).
    """
    found = list(instances)
    if sum(len(instance.machines) for instance in found) <= always:
        return found
    size = sum(map(_json_bytes, found))
    for index in sorted(range(len(found)), key=lambda index: not found[index].ready):
        if size <= limit_bytes:
            break
        size -= _json_bytes(found[index])
        found[index] = _shortened(found[index])
        size += _json_bytes(found[index])
    return found


def _start_messages(old: SystemDeploymentStatus) -> dict[tuple[int, str, int], str | None]:
    """Messages of machines that failed to start, by instance, name and revision."""
    return {
        (instance.instance, machine.name, machine.revision): machine.message
        for instance in old.instances
        for machine in instance.machines
        if machine.state in ("Starting", "Failed", "CrashLooping")
    }


def _json_bytes(instance: InstanceStatus) -> int:
    return len(instance.model_dump_json(by_alias=True, exclude_none=True))


def _shortened(instance: InstanceStatus) -> InstanceStatus:
    """The instance without placement, nodes and messages, and without systems that equal its own."""
    machines = [
        machine.model_copy(
            update={"node": None, "message": None} | ({"system": None} if machine.system == instance.system else {})
        )
        for machine in instance.machines
    ]
    return instance.model_copy(update={"machines": machines, "placement": None})
