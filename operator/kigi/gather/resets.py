"""Requests for resets from the mirror: which are accepted, and what they may name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.instance import MachineStatus, SystemInstanceSpec
from kigi.domain.names import instance_object
from kigi.domain.observed import Slot, VolumeRecord
from kigi.domain.resets import ResetRequest, ResetScope, refusal
from kigi.domain.systems import ResolvedSystem
from kigi.mirror.records import DeploymentRecord, InstanceRecord, ResetRecord
from kigi.mirror.store import Mirror
from kigi.planning.reset_view import MachineProgress, ResetView


def accepted_requests(
    mirror: Mirror, deployment: DeploymentRecord, instance: str, disks: Iterable[VolumeRecord]
) -> tuple[ResetRequest, ...]:
    """Accepted requests that concern an instance with these disks.

    Those that are older than all disks ask for nothing, and are not checked: disks only remember them. O(requests of
    the deployment), and O(instances) for each that is newer than a disk and names instances or machines.
    """
    key = (deployment.meta.namespace or "", deployment.meta.name)
    live = [
        request
        for record in mirror.resets.by("deployment", key)
        if (request := live_request(record)) is not None and request.concerns(instance)
    ]
    if not live:
        return ()
    made = [volume.meta.created for volume in disks if not volume.disk and not volume.meta.deleting]
    oldest = min((time for time in made if time is not None), default=None) if None not in made else None

    def is_accepted(request: ResetRequest) -> bool:
        return request.is_older_than(oldest) or refusal(request, reset_scope(mirror, deployment, request)) is None

    return tuple(filter(is_accepted, live))


def live_request(record: ResetRecord) -> ResetRequest | None:
    """The request; None if it is invalid or is being deleted: then it asks for nothing."""
    return record.request if isinstance(record.request, ResetRequest) and not record.meta.deleting else None


def reset_scope(mirror: Mirror, deployment: DeploymentRecord | None, request: ResetRequest) -> ResetScope | None:
    """What exists of that which the request names; None if the deployment does not exist or its spec is invalid.

    O(instances) if the request names instances or machines, otherwise O(1).
    """
    if deployment is None or not isinstance(deployment.spec, SystemDeploymentSpec):
        return None
    if not request.instances and not request.machines:
        return ResetScope(deployment.meta.name, deployment.meta.created, {})
    known = dict.fromkeys(deployment.spec.instance_names())
    concerned = [name for name in known if request.concerns(name)]
    records = {name: _instance(mirror, deployment, name) for name in concerned}
    machines = {name: _machines(mirror, deployment, records[name]) for name in concerned} if request.machines else {}
    return ResetScope(
        name=deployment.meta.name,
        created=deployment.meta.created,
        instances={name: record.meta.created if record is not None else None for name, record in records.items()},
        machines={name: found for name, found in machines.items() if found is not None},
        selected=tuple(known),
    )


def _instance(mirror: Mirror, deployment: DeploymentRecord, name: str) -> InstanceRecord | None:
    return mirror.instances.get(deployment.meta.namespace, instance_object(deployment.meta.name, name))


def _machines(mirror: Mirror, deployment: DeploymentRecord, record: InstanceRecord | None) -> frozenset[str] | None:
    """Machines of the instance's state; None if it cannot be resolved."""
    assert isinstance(deployment.spec, SystemDeploymentSpec)
    own = record.spec.system_ref if record is not None and isinstance(record.spec, SystemInstanceSpec) else None
    state = mirror.resolved(deployment.meta.namespace or "", (own or deployment.spec.system_ref).tree_name)
    if not isinstance(state, ResolvedSystem):
        return None
    return frozenset(machine.name for machine in state.machines)


def gather_reset(mirror: Mirror, record: ResetRecord, request: ResetRequest, now: datetime) -> ResetView:
    """The view of one request that has not ended. O(instances + machines of those that it concerns)."""
    deployment = mirror.deployments.get(*record.deployment)
    refused = refusal(request, reset_scope(mirror, deployment, request))
    machines: list[MachineProgress] = []
    disks: list[list[VolumeRecord]] = []
    unresolved = 0
    for instance in _concerned(deployment, request) if deployment is not None and refused is None else ():
        assert deployment is not None
        found = _instance(mirror, deployment, instance)
        names = _machines(mirror, deployment, found)
        unresolved += names is None
        slots = {(instance, name) for name in names or () if request.concerns(instance, name)}
        newest = _newest_disks(mirror, record.deployment, instance, slots)
        reports = {report.name: report for report in found.status.machines} if found and found.status else {}
        machines += [_progress(request, slot, newest.get(slot, ()), reports.get(slot[1])) for slot in sorted(slots)]
        disks += newest.values()
    return ResetView(
        generation=record.meta.generation,
        request=request,
        refusal=refused,
        unresolved=unresolved,
        machines=tuple(machines),
        missing_bytes=_missing_bytes(mirror, request, disks),
        now=now,
        old_status=record.status,
    )


def _concerned(deployment: DeploymentRecord, request: ResetRequest) -> list[str]:
    assert isinstance(deployment.spec, SystemDeploymentSpec)
    return [name for name in deployment.spec.instance_names() if request.concerns(name)]


def _newest_disks(
    mirror: Mirror, deployment: tuple[str, str], instance: str, slots: set[Slot]
) -> dict[Slot, list[VolumeRecord]]:
    """Volumes of the newest revision of each machine, the boot disk first."""
    found: dict[Slot, list[VolumeRecord]] = defaultdict(list)
    for volume in mirror.volumes.by("instance", (*deployment, instance)):
        if volume.slot in slots and not volume.meta.deleting:
            found[volume.slot].append(volume)
    for slot, volumes in found.items():
        newest = max((volume.revision for volume in volumes if not volume.disk), default=0)
        found[slot] = sorted((v for v in volumes if v.revision == newest), key=lambda volume: volume.disk)
    return found


def _progress(
    request: ResetRequest, slot: Slot, disks: Sequence[VolumeRecord], report: MachineStatus | None
) -> MachineProgress:
    boot = disks[0] if disks and not disks[0].disk else None
    if boot is None or not _has(request, boot):
        return MachineProgress(*slot, is_fresh=False)
    if report is None or report.revision != boot.revision:
        return MachineProgress(*slot, is_fresh=True)
    return MachineProgress(*slot, is_fresh=True, state=report.state, message=report.message)


def _has(request: ResetRequest, boot: VolumeRecord) -> bool:
    seen = boot.fingerprint.seen if boot.fingerprint is not None else ()
    return request.mark in seen or request.is_older_than(boot.meta.created)


def _missing_bytes(mirror: Mirror, request: ResetRequest, disks: Iterable[Sequence[VolumeRecord]]) -> int:
    """Bytes of layers of fresh disks that their nodes lack; each node counts a layer once."""
    missing: dict[tuple[str, str], int] = {}
    for volumes in disks:
        if not volumes or volumes[0].disk or not _has(request, volumes[0]):
            continue
        for volume in volumes:
            cache = mirror.caches.get(None, volume.node)
            held = cache.held if cache is not None else frozenset()
            missing.update({(volume.node, x.digest): x.size_bytes for x in volume.chain if x.digest not in held})
    return sum(missing.values())
