"""The view of one SystemDeployment, read from the mirror: no request to the API server."""

from __future__ import annotations

from datetime import datetime

from kigi.domain import names
from kigi.domain.kubevirt import KubeVirtState
from kigi.errors import KigiError
from kigi.gather.nodes import gather_nodes, instancetypes_of
from kigi.mirror.records import DeploymentRecord
from kigi.mirror.store import Mirror
from kigi.planning import plugin
from kigi.planning.targets import named_systems
from kigi.planning.view import DeploymentView, MachineState


def gather_deployment(mirror: Mirror, record: DeploymentRecord, now: datetime) -> DeploymentView:
    """The view of one deployment, whose spec must be valid. O(its machines + nodes)."""
    assert not isinstance(record.spec, KigiError)
    meta = record.meta
    key = (meta.namespace or "", meta.name)
    return DeploymentView(
        namespace=key[0],
        name=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        deleting=meta.deleting,
        has_finalizer=names.FINALIZER in meta.finalizers,
        spec=record.spec,
        systems={name: mirror.resolved(key[0], name) for name in named_systems(record.spec)},
        nodes=gather_nodes(mirror, now, without=key),
        volumes=tuple(mirror.volumes.by("deployment", key)),
        claims=tuple(mirror.claims.by("deployment", key)),
        machines=tuple(
            MachineState(vm, mirror.vmis.get(key[0], vm.meta.name)) for vm in mirror.machines.by("deployment", key)
        ),
        kubevirt=kubevirt_of(mirror),
        now=now,
        instancetypes=instancetypes_of(mirror, key[0]),
        policies=tuple(mirror.policies.by("deployment", key)),
        changed_by=record.changed_by,
        old_status=record.status,
    )


def kubevirt_of(mirror: Mirror) -> KubeVirtState:
    """Version and disk hook of the cluster's KubeVirt."""
    for record in mirror.kubevirts:
        if record.state.hook != "Plugin":
            return record.state
        known = mirror.plugins.get(None, plugin.NAME)
        if known is not None and known.intact and not known.meta.deleting:
            return record.state
        why = f"Plugin {plugin.NAME} does not exist yet as applied; no VM starts on a layered disk without it"
        return KubeVirtState(record.state.version, None, why, pending=True)
    return KubeVirtState(why_not="KubeVirt is not installed: there is no KubeVirt object in the cluster")
