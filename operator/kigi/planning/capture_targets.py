"""Which machines and disks a capture takes, and how each VM is paused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from kigi.api.capture import MAX_BASE_IMAGE, ROOT_DISK, CapturedDisk, CapturedMachine
from kigi.domain import names
from kigi.domain.layers import MAX_DEPTH, Chain
from kigi.domain.observed import VmiRecord, VolumeRecord
from kigi.domain.tree_names import is_foreign
from kigi.errors import (
    AgentMissing,
    ChainTooDeep,
    ImageMissing,
    KigiError,
    MachineUnknown,
    NameTaken,
    NotSettled,
    RefNotPermitted,
    SpecInvalid,
)
from kigi.planning.capture_progress import CaptureProgress, is_to_pause
from kigi.planning.capture_results import names_of
from kigi.planning.capture_view import CaptureView, lasts, system_name
from kigi.planning.desired import desired_targets
from kigi.planning.machines import is_outdated
from kigi.planning.observed_disks import ObservedDisks
from kigi.planning.targets import MachineTarget
from kigi.planning.view import InstanceView

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
    """The next attempt: its machines and disks, in the stage Pausing.

    Raises the error of the instance or of the repository, MachineUnknown, NameTaken, AgentMissing or ChainTooDeep;
    NotSettled while a machine starts, stops, or does not run on its newest disk yet. O(machines of the instance).
    """
    instance = view.instance
    if isinstance(instance, KigiError):
        raise instance
    if isinstance(view.repository, KigiError):
        raise view.repository
    machines: list[CapturedMachine] = []
    disks: list[CapturedDisk] = []
    for target in _machine_targets(view, instance):
        found = _settled_disks(view, instance, target)
        machine = _machine(view, instance, target, found[0].volume)
        # Recorded before the request, so that an operator that stops after the request does not shorten the pause.
        machines.append(machine.model_copy(update={"request_time": view.now}) if is_to_pause(machine) else machine)
        for disk in found:
            disks.append(_captured_disk(disk))
    _refuse_without_agent(view, machines)
    _refuse_taken_names(view, disks)
    return replace(
        view.progress,
        attempts=view.progress.attempts + 1,
        repository=view.repository,
        attempt_start_time=view.now,
        failure=None,
        pause_message=None,
        parent=instance.system_name,
        instance_uid=instance.uid,
        machines=tuple(machines),
        disks=tuple(disks),
    )


def too_deep(where: str, image: str, cause: str) -> ChainTooDeep:
    """The error of an image above which the repository accepts no layer, with the remedy."""
    return ChainTooDeep(
        f"{where}: VMImageNode {image}: {cause}; run 'kigi flatten {image} --name NEW', deploy a state that names NEW, "
        "and capture that"
    )


def _machine_targets(view: CaptureView, instance: InstanceView) -> list[MachineTarget]:
    """Machines that the spec asks for, by name."""
    present = desired_targets(instance, ObservedDisks(instance))
    targets = {target.machine: target for target in present}
    for name in view.spec.machines:
        if name not in targets:
            raise MachineUnknown(
                f"spec.machines: instance {view.spec.instance_ref.name} has no machine "
                f"{name}; it has {', '.join(sorted(targets))}"
            )
    present_names = [name for name, target in targets.items() if not target.is_removed]
    return [targets[name] for name in sorted(view.spec.machines or present_names)]


def _settled_disks(view: CaptureView, instance: InstanceView, target: MachineTarget) -> list[_Disk]:
    """Disks of the machine, the boot disk first; NotSettled until all exist on the images that the spec names.

    ImageMissing if the disks have older content than the state, whose images no longer exist.
    """
    where = f"machine {target.machine} of instance {target.instance}"
    volumes = {v.disk: v for v in _newest_volumes(instance.volumes, target)}
    boot = volumes.get("")
    if boot is None or target.needs_new_disk(instance.fingerprint_of(boot)):
        raise NotSettled(f"{where} is being switched or reset; it is captured when that is done")
    if boot.owner_uid != instance.uid:
        raise NotSettled(f"{where} has a disk from before there were SystemInstances; it is captured after a reset")
    found = [_Disk(target.machine, "", target.blueprint.machine.image, target.chain, boot)]
    for disk in target.blueprint.machine.disks:
        volume = volumes.get(disk.name)
        if volume is None:
            raise NotSettled(f"{where}: its disk {disk.name} does not exist yet")
        found.append(_Disk(target.machine, disk.name, disk.image, disk.chain, volume))
    if target.is_older:
        found = [replace(each, image=_image_below(view, each, where)) for each in found]
    else:
        found = [replace(each, image=_usable_image(view, each, where)) for each in found]
    for each in found:
        if each.volume.chain[-1].digest != each.chain[-1].digest:
            raise NotSettled(
                f"{where}: disk {each.disk or ROOT_DISK} is not based on image {each.image} yet; it is captured then"
            )
        if len(each.chain) >= MAX_DEPTH:
            raise too_deep(where, each.image, f"its chain has {len(each.chain)} layers, which is the maximum")
    return found


def _image_below(view: CaptureView, disk: _Disk, where: str) -> str:
    """The image of a disk that an edit of its state has not reached."""
    digest = disk.chain[-1].digest
    if digest not in view.images:
        raise ImageMissing(
            f"{where}: disk {disk.disk or ROOT_DISK} is based on layer {digest}, from before an edit of "
            "its state, and no VMImageNode of this namespace has that layer; create it again"
        )
    return view.images[digest]


def _usable_image(view: CaptureView, disk: _Disk, where: str) -> str:
    """The image that the new one is based on; that of an inherited state may be one that this namespace cannot name."""
    if not is_foreign(disk.image):
        return disk.image
    digest = disk.chain[-1].digest
    if digest not in view.images:
        raise RefNotPermitted(
            f"{where}: no TreeGrant lets this namespace use the image of disk {disk.disk or ROOT_DISK}; ask the "
            "owner of the state for a grant of its images"
        )
    return view.images[digest]


def _machine(view: CaptureView, instance: InstanceView, target: MachineTarget, boot: VolumeRecord) -> CapturedMachine:
    """The VM, if it runs on its newest disks or is off; NotSettled until then."""
    where = f"machine {target.machine} of instance {target.instance}"
    vm = next((m for m in instance.machines if m.slot == target.slot), None)
    claim = names.claim_name(instance.deployment, *target.slot, boot.revision)
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
        if before is not None and before.resume_time is not None and lasts(before.resume_time, view.now, RESUMED_SHOWN):
            raise NotSettled(f"machine {machine} was resumed a moment ago, which KubeVirt does not report yet")
        return "AlreadyPaused"
    return "FreezeAndPause" if view.spec.quiesce_policy != "PauseOnly" and vmi.meta.uid in view.agents else "Pause"


def _newest_volumes(volumes: Iterable[VolumeRecord], target: MachineTarget) -> list[VolumeRecord]:
    """Volumes of the machine's newest revision."""
    own = [v for v in volumes if v.slot == target.slot and not v.meta.deleting]
    newest = max((v.revision for v in own), default=0)
    return [v for v in own if v.revision == newest]


def _captured_disk(disk: _Disk) -> CapturedDisk:
    if len(disk.image) > MAX_BASE_IMAGE:
        raise SpecInvalid(
            f"machine {disk.machine}: VMImageNode {disk.image}: namespace and name have more than {MAX_BASE_IMAGE} "
            "characters; deploy a state that names an image with a shorter name, and capture that"
        )
    return CapturedDisk(
        machine=disk.machine,
        disk=disk.disk or ROOT_DISK,
        node_name=disk.volume.node,
        revision=disk.volume.revision,
        base_image_name=disk.image,
        virtual_size_bytes=disk.chain[-1].virtual_size_bytes,
    )


def _refuse_without_agent(view: CaptureView, machines: Iterable[CapturedMachine]) -> None:
    """AgentMissing if a running machine cannot freeze and the policy requires it; checked before any VM is paused."""
    if view.spec.quiesce_policy != "FreezeRequired":
        return
    without = [machine.name for machine in machines if machine.method in ("Pause", "AlreadyPaused")]
    if without:
        raise AgentMissing(
            f"spec.quiescePolicy: FreezeRequired, and {', '.join(without[:5])} cannot freeze: no guest agent is "
            "connected, or a user has paused the VM; start the agent, or use FreezeIfPossible"
        )


def _refuse_taken_names(view: CaptureView, disks: Sequence[CapturedDisk]) -> None:
    """NameTaken if the result could not be created in the end; checked before any VM is paused."""
    for kind, name in names_of(system_name(view.name, view.spec), disks):
        if (kind, name) in view.taken:
            raise NameTaken(
                f"{kind} {view.namespace}/{name} exists already; delete it, or capture under another "
                "spec.target.systemName"
            )
