"""Views for decisions, from the mirror alone: no request to the API server is made here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from kigi.domain import names
from kigi.domain.kubevirt import KubeVirtState
from kigi.errors import KigiError
from kigi.gather.nodes import gather_nodes, instancetypes_of
from kigi.mirror.records import (
    DeploymentRecord,
    VolumeRecord,
)
from kigi.mirror.store import Mirror
from kigi.planning import plugin
from kigi.planning.targets import named_systems
from kigi.planning.view import (
    ClaimState,
    DeploymentView,
    MachineState,
    PolicyState,
    VolumeState,
)


def gather_deployment(mirror: Mirror, record: DeploymentRecord, now: datetime) -> DeploymentView:
    """The view of one deployment; its spec must be valid. O(its machines + nodes)."""
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
        volumes=tuple(_volume_state(volume, meta.uid) for volume in mirror.volumes.by("deployment", key)),
        claims=tuple(
            ClaimState(claim.meta.name, claim.volume, claim.meta.deleting, claim.bound)
            for claim in mirror.claims.by("deployment", key)
        ),
        machines=tuple(_machine_states(mirror, record)),
        kubevirt=kubevirt_of(mirror),
        now=now,
        instancetypes=instancetypes_of(mirror, key[0]),
        policies=tuple(
            PolicyState(p.meta.name, p.instance, p.spec, p.owner_uid == meta.uid, p.meta.deleting)
            for p in mirror.policies.by("deployment", key)
        ),
        changed_by=record.changed_by,
        old_status=record.status,
    )


def _volume_state(volume: VolumeRecord, uid: str) -> VolumeState:
    # A deployment of the same name that was deleted by force may have left a volume: its fingerprint is hidden, so
    # that its overlay is never taken for this deployment's, and its number is not used again.
    ours = volume.owner_uid == uid
    return VolumeState(
        name=volume.meta.name,
        handle=volume.handle,
        instance=volume.instance,
        machine=volume.machine,
        disk=volume.disk,
        revision=volume.revision,
        node=volume.node,
        fingerprint=volume.fingerprint if ours else "",
        system=volume.system,
        chain=volume.chain,
        deleting=volume.meta.deleting,
        claim_bound=volume.claim_bound,
    )


def _machine_states(mirror: Mirror, record: DeploymentRecord) -> Iterator[MachineState]:
    key = (record.meta.namespace or "", record.meta.name)
    for vm in mirror.machines.by("deployment", key):
        vmi = mirror.vmis.get(key[0], vm.meta.name)
        yield MachineState(
            name=vm.meta.name,
            instance=vm.instance,
            machine=vm.machine,
            owned=vm.owner_uid == record.meta.uid,
            deleting=vm.meta.deleting,
            claim=vm.claim,
            running=vm.running,
            template_hash=vm.template_hash,
            hardware=vm.hardware,
            sidecars=vm.sidecars,
            halted_until=vm.halted_until,
            vmi_uid=vmi.meta.uid if vmi else None,
            vmi_claim=vmi.claim if vmi else None,
            vmi_hardware=vmi.hardware if vmi else "",
            persistent_state=vmi.persistent_state if vmi else "",
            blocked_by_ghost_record=vmi.blocked_by_ghost_record if vmi else False,
            vmi_phase=vmi.phase if vmi else "",
            vmi_ready=vmi.ready if vmi else False,
            paused=vmi.paused if vmi else False,
            vmi_deleting=vmi.meta.deleting if vmi else False,
            vmi_node=vmi.node if vmi else None,
            printable_status=vm.printable_status,
            message=(vmi.message if vmi else "") or vm.message,
        )


def kubevirt_of(mirror: Mirror) -> KubeVirtState:
    """What KubeVirt can do here."""
    for record in mirror.kubevirts:
        if record.state.hook != "Plugin":
            return record.state
        known = mirror.plugins.get(None, plugin.NAME)
        if known is not None and known.intact and not known.meta.deleting:
            return record.state
        why = f"Plugin {plugin.NAME} is not there yet as it shall be; no VM is started on a layered disk without it"
        return KubeVirtState(record.state.version, None, why, pending=True)
    return KubeVirtState(why_not="KubeVirt is not installed: there is no KubeVirt object in the cluster")
