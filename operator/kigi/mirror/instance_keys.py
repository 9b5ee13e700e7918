"""Keys of instances: by what they have created, by their nodes, and by the layers that they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from kigi.domain.layers import Digest
from kigi.domain.names import instance_object
from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, VmiRecord, VolumeRecord
from kigi.mirror.keys import Key
from kigi.mirror.records import InstanceRecord
from kigi.mirror.store import Mirror


def all_instances(mirror: Mirror) -> Iterator[Key]:
    """Every instance of the cluster."""
    return (instance_key(record) for record in mirror.instances)


def instance_key(record: InstanceRecord) -> Key:
    """The key of a SystemInstance."""
    return Key("instance", record.meta.namespace or "", record.meta.name)


def owner_of(mirror: Mirror, part: VolumeRecord | ClaimRecord | MachineRecord | PolicyRecord | VmiRecord) -> Key:
    """The instance that the object belongs to; the deployment, if the instance does not exist any more."""
    namespace, deployment = part.deployment
    name = instance_object(deployment, part.instance)
    exists = mirror.instances.get(namespace, name) is not None
    return Key("instance", namespace, name) if exists else Key("deployment", namespace, deployment)


def unplaced(mirror: Mirror) -> set[Key]:
    """Instances that no node could take when they were last planned."""
    return {Key("instance", *key) for key in mirror.unplaced}


def instances_on(mirror: Mirror, node: str) -> set[Key]:
    """Instances with a disk on the node."""
    return {owner_of(mirror, volume) for volume in mirror.volumes.by("node", node)}


def instances_with(mirror: Mirror, node: str, digests: Set[Digest]) -> set[Key]:
    """Instances on the node whose disks have one of these layers."""
    return {
        owner_of(mirror, volume)
        for volume in mirror.volumes.by("node", node)
        if any(layer.digest in digests for layer in volume.chain)
    }


def writers(mirror: Mirror, node: str, before: Mapping[str, int], after: Mapping[str, int]) -> set[Key]:
    """Instances on the node whose guests have written more, or less; written bytes by handle."""
    changed = {handle for handle in before.keys() | after.keys() if before.get(handle) != after.get(handle)}
    return {owner_of(mirror, volume) for volume in mirror.volumes.by("node", node) if volume.handle in changed}


def deployments_on(mirror: Mirror, node: str) -> set[Key]:
    """Deployments with a disk on the node."""
    return {Key("deployment", *volume.deployment) for volume in mirror.volumes.by("node", node)}
