"""Which machines and disks a capture takes, and how each VM is paused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from kigi.api.capture import CapturedDisk, CapturedMachine
from kigi.domain import names
from kigi.domain.layers import MAX_DEPTH, Chain
from kigi.domain.observed import VmiRecord, VolumeRecord
from kigi.errors import ChainTooDeep, DeploymentMissing, KigiError, MachineUnknown, NameTaken, NotSettled
from kigi.planning.capture_progress import CaptureProgress, is_to_pause
from kigi.planning.capture_results import names_of
from kigi.planning.capture_view import CaptureView, disk_name, lasts, system_name
from kigi.planning.machines import is_outdated
from kigi.planning.targets import MachineTarget, machine_targets
from kigi.planning.view import DeploymentView

RESUMED_SHOWN = timedelta(seconds=30)
"""KubeVirt may report a VM that the capture resumed as paused for this long; after it, a user has paused the VM."""


@dataclass(frozen=True, slots=True)
class _Disk:
    """One disk of a machine: ``disk`` is empty for the boot disk."""

    machine: str
    disk: str
    image: str
    chain: Chain
    volume: VolumeRecord


def choose_targets(view: CaptureView) -> CaptureProgress:
    """The next attempt: its machines and disks, in the phase Pausing.

    Raises the deployment's error, DeploymentMissing, MachineUnknown, NameTaken or ChainTooDeep; NotSettled while a
    machine starts, stops, or does not run on its newest disk yet. O(machines of the deployment).
    """
    deployment = view.deployment
    if isinstance(deployment, KigiError):
        raise deployment
    attempt = view.progress.attempt + 1
    machines: list[CapturedMachine] = []
    disks: list[CapturedDisk] = []
    for target in _machine_targets(view, deployment):
        found = _settled_disks(deployment, target)
        machine = _machine(view, deployment, target, found[0].volume)
        # Recorded before the request, so that an operator that stops after the request does not shorten the pause.
        machines.append(machine.model_copy(update={"requested_at": view.now}) if is_to_pause(machine) else machine)
        for disk in found:
            disks.append(_captured_disk(view, attempt, len(disks), disk))
    _refuse_taken_names(view, disks)
    override = next((o for o in deployment.spec.overrides if o.instance == view.spec.instance), None)
    return CaptureProgress(
        phase="Pausing",
        attempt=attempt,
        started_at=view.now,
        parent=override.system.name if override and override.system else deployment.spec.system.name,
        deployment_uid=deployment.uid,
        machines=tuple(machines),
        disks=tuple(disks),
    )


def too_deep(where: str, image: str, cause: str) -> ChainTooDeep:
    """The error of an image above which the repository accepts no layer, with the remedy."""
    return ChainTooDeep(
        f"{where}: VMImageNode {image}: {cause}; run 'kigi flatten {image} --name NEW', deploy a state that names NEW, "
        "and capture that"
    )


def _machine_targets(view: CaptureView, deployment: DeploymentView) -> list[MachineTarget]:
    """Machines that the spec asks for, by name."""
    instance = view.spec.instance
    targets = {t.machine: t for t in machine_targets(deployment) if t.instance == instance}
    if not targets:
        raise DeploymentMissing(
            f"spec.instance: SystemDeployment {deployment.name} has {deployment.spec.replicas} instances, from 0; "
            f"there is no instance {instance}"
        )
    for name in view.spec.machines:
        if name not in targets:
            raise MachineUnknown(
                f"spec.machines: instance {instance} of SystemDeployment {deployment.name} has no machine "
                f"{name}; it has {', '.join(sorted(targets))}"
            )
    return [targets[name] for name in sorted(view.spec.machines or targets)]


def _settled_disks(deployment: DeploymentView, target: MachineTarget) -> list[_Disk]:
    """Disks of the machine, the boot disk first; NotSettled until all exist on the images that the spec names."""
    where = f"machine {target.machine} of instance {target.instance}"
    volumes = {v.disk: v for v in _newest_volumes(deployment.volumes, target)}
    boot = volumes.get("")
    if boot is None or target.needs_new_disk(deployment.fingerprint_of(boot)):
        raise NotSettled(f"{where} is being switched or reset; it is captured when that is done")
    found = [_Disk(target.machine, "", target.blueprint.machine.image, target.chain, boot)]
    for disk in target.blueprint.machine.disks:
        volume = volumes.get(disk.name)
        if volume is None:
            raise NotSettled(f"{where}: its disk {disk.name} does not exist yet")
        found.append(_Disk(target.machine, disk.name, disk.image, disk.chain, volume))
    for each in found:
        if each.volume.chain[-1].digest != each.chain[-1].digest:
            name = disk_name(each.machine, each.disk)
            raise NotSettled(f"{where}: disk {name} is not based on image {each.image} yet; it is captured when it is")
        if len(each.chain) >= MAX_DEPTH:
            raise too_deep(where, each.image, f"its chain has {len(each.chain)} layers, which is the maximum")
    return found


def _machine(
    view: CaptureView, deployment: DeploymentView, target: MachineTarget, boot: VolumeRecord
) -> CapturedMachine:
    """The VM, if it runs on its newest disks or is off; NotSettled until then."""
    where = f"machine {target.machine} of instance {target.instance}"
    vm = next((m for m in deployment.machines if m.slot == target.slot), None)
    claim = names.claim_name(deployment.name, *target.slot, boot.revision)
    if vm is None or vm.vmi is None:
        # A VM that its guest powered off stays off; any other one may start while its disk is copied.
        powered_off = vm is not None and vm.vm.claim == claim and vm.vm.printable_status == "Stopped"
        if target.running and not powered_off:
            raise NotSettled(f"{where} is about to start")
        return CapturedMachine(name=target.machine)
    if vm.vmi_deleting or is_outdated(vm) or vm.vmi_claim != claim or vm.vmi_phase != "Running":
        raise NotSettled(f"{where} is starting or stopping ({vm.vm.printable_status or vm.vmi_phase})")
    return CapturedMachine(name=target.machine, vmi_uid=vm.vmi.meta.uid, method=_method(view, target.machine, vm.vmi))


def _method(view: CaptureView, machine: str, vmi: VmiRecord) -> Literal["Pause", "FreezeAndPause", "AlreadyPaused"]:
    if vmi.paused:
        before = next((m for m in view.progress.machines if m.vmi_uid == vmi.meta.uid), None)
        if before is not None and before.resumed_at is not None and lasts(before.resumed_at, view.now, RESUMED_SHOWN):
            raise NotSettled(f"machine {machine} was resumed a moment ago, which KubeVirt does not report yet")
        return "AlreadyPaused"
    return "FreezeAndPause" if view.spec.quiesce == "Auto" and vmi.meta.uid in view.agents else "Pause"


def _newest_volumes(volumes: Iterable[VolumeRecord], target: MachineTarget) -> list[VolumeRecord]:
    """Volumes of the machine's newest revision."""
    own = [v for v in volumes if v.slot == target.slot and not v.meta.deleting]
    newest = max((v.revision for v in own), default=0)
    return [v for v in own if v.revision == newest]


def _captured_disk(view: CaptureView, attempt: int, number: int, disk: _Disk) -> CapturedDisk:
    # The id contains the volume, so that a report on the disk before a reset does not count for the new disk.
    volume_hash = hashlib.sha256(disk.volume.handle.encode()).hexdigest()[:8]
    return CapturedDisk(
        name=disk_name(disk.machine, disk.disk),
        machine=disk.machine,
        disk=disk.disk,
        id=f"c{view.uid}-{attempt}-{number}-{volume_hash}",
        node=disk.volume.node,
        volume=disk.volume.handle,
        image=disk.image,
        parent=disk.chain[-1].digest,
        virtual_size_bytes=disk.chain[-1].virtual_size_bytes,
        repository=view.spec.repository,
    )


def _refuse_taken_names(view: CaptureView, disks: Sequence[CapturedDisk]) -> None:
    """NameTaken if the result could not be created in the end; checked before any VM is paused."""
    for kind, name in names_of(system_name(view.name, view.spec), disks):
        if (kind, name) in view.taken:
            raise NameTaken(
                f"{kind} {view.namespace}/{name} exists already; delete it, or capture under another spec.system"
            )
