"""Which machines and disks a capture takes, and how each VM is paused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from kigi.api.capture import CapturedDisk, CapturedMachine, SystemCaptureStatus
from kigi.domain import names
from kigi.domain.layers import MAX_DEPTH, Chain
from kigi.domain.observed import VmiRecord, VolumeRecord
from kigi.errors import DeploymentMissing, KigiError, MachineUnknown, NameTaken, NotSettled
from kigi.planning.capture_view import RESUMED_SHOWN, CaptureView, image_name, is_to_pause, lasts, system_name, too_deep
from kigi.planning.machines import is_outdated
from kigi.planning.targets import MachineTarget, machine_targets
from kigi.planning.view import DeploymentView


def choose_targets(view: CaptureView) -> SystemCaptureStatus:
    deployment = view.deployment
    if isinstance(deployment, KigiError):
        raise deployment
    wishes = [w for w in machine_targets(deployment) if w.instance == view.spec.instance]
    if not wishes:
        raise DeploymentMissing(
            f"spec.instance: SystemDeployment {deployment.name} has {deployment.spec.replicas} instances, from 0; "
            f"there is no instance {view.spec.instance}"
        )
    known = {wish.machine for wish in wishes}
    for name in view.spec.machines:
        if name not in known:
            raise MachineUnknown(
                f"spec.machines: instance {view.spec.instance} of SystemDeployment {deployment.name} has no machine "
                f"{name}; it has {', '.join(sorted(known))}"
            )
    wanted = [wish for wish in wishes if not view.spec.machines or wish.machine in view.spec.machines]
    attempt = view.status.attempt + 1
    machines: list[CapturedMachine] = []
    disks: list[CapturedDisk] = []
    for wish in sorted(wanted, key=lambda wish: wish.machine):
        machine, volumes = _at_rest(view, deployment, wish)
        # Written before anybody is asked, so that no operator that dies after the request makes the pause look shorter.
        machines.append(machine.model_copy(update={"requested_at": view.now}) if is_to_pause(machine) else machine)
        for name, image, chain, volume in volumes:
            disks.append(_disk(view, attempt, len(disks), name, image, chain, volume))
    _refuse_taken(view, disks)
    override = next((o for o in deployment.spec.overrides if o.instance == view.spec.instance), None)
    parent = override.system.name if override and override.system else deployment.spec.system.name
    return SystemCaptureStatus(
        observed_generation=view.status.observed_generation,
        conditions=view.status.conditions,
        phase="Pausing",
        attempt=attempt,
        parent=parent,
        deployment_uid=deployment.uid,
        started_at=view.now,
        machines=machines,
        disks=disks,
    )


def _refuse_taken(view: CaptureView, disks: Sequence[CapturedDisk]) -> None:
    """No VM is paused for a state that could not be written in the end."""
    system = system_name(view.name, view.spec)
    wanted = [("SystemNode", system), *(("VMImageNode", image_name(system, disk.name)) for disk in disks)]
    for kind, name in wanted:
        if (kind, name) in view.taken:
            raise NameTaken(
                f"{kind} {view.namespace}/{name} exists already; delete it, or capture under another spec.system"
            )


def _at_rest(
    view: CaptureView, deployment: DeploymentView, wish: MachineTarget
) -> tuple[CapturedMachine, list[_Found]]:
    """The VM and its disks, if it runs on the disks that it shall have, or is off; NotSettled until then."""
    where = f"machine {wish.machine} of instance {wish.instance}"
    volumes = {v.disk: v for v in _newest(deployment.volumes, wish)}
    root = volumes.get("")
    if root is None or wish.needs_new_disk(deployment.fingerprint_of(root)):
        raise NotSettled(f"{where} is being switched or reset; it is captured when that is done")
    found: list[_Found] = [(wish.machine, wish.blueprint.machine.image, wish.chain, root)]
    for disk in wish.blueprint.machine.disks:
        volume = volumes.get(disk.name)
        if volume is None:
            raise NotSettled(f"{where}: its disk {disk.name} is not there yet")
        found.append((f"{wish.machine}/{disk.name}", disk.image, disk.chain, volume))
    for name, image, chain, volume in found:
        if volume.chain[-1].digest != chain[-1].digest:
            raise NotSettled(f"{where}: disk {name} does not stand on image {image}; it is captured when it does")
        if len(chain) >= MAX_DEPTH:
            raise too_deep(where, image, f"its chain has {len(chain)} layers, and no chain may have more")
    vm = next((m for m in deployment.machines if m.slot == wish.slot), None)
    claim = names.claim_name(deployment.name, *wish.slot, root.revision)
    if vm is None or vm.vmi is None:
        # On, and powered off by its guest, it stays off; else it may start while its disk is copied.
        powered_off = vm is not None and vm.vm.claim == claim and vm.vm.printable_status == "Stopped"
        if wish.running and not powered_off:
            raise NotSettled(f"{where} is about to start")
        return CapturedMachine(name=wish.machine), found
    if vm.vmi_deleting or is_outdated(vm) or vm.vmi_claim != claim or vm.vmi_phase != "Running":
        raise NotSettled(f"{where} is starting or stopping ({vm.vm.printable_status or vm.vmi_phase})")
    method = _method(view, wish.machine, vm.vmi)
    return CapturedMachine(name=wish.machine, vmi_uid=vm.vmi.meta.uid, method=method), found


def _method(view: CaptureView, machine: str, vmi: VmiRecord) -> Literal["Pause", "FreezeAndPause", "AlreadyPaused"]:
    if vmi.paused:
        before = next((m for m in view.status.machines if m.vmi_uid == vmi.meta.uid), None)
        if before is not None and before.resumed_at is not None and lasts(before.resumed_at, view.now, RESUMED_SHOWN):
            raise NotSettled(f"machine {machine} was resumed a moment ago; KubeVirt does not show it yet")
        return "AlreadyPaused"
    return "FreezeAndPause" if view.spec.quiesce == "Auto" and vmi.meta.uid in view.agents else "Pause"


def _newest(volumes: Iterable[VolumeRecord], wish: MachineTarget) -> list[VolumeRecord]:
    """Volumes of the machine's newest revision."""
    own = [v for v in volumes if v.slot == wish.slot and not v.meta.deleting]
    newest = max((v.revision for v in own), default=0)
    return [v for v in own if v.revision == newest]


def _disk(
    view: CaptureView, attempt: int, number: int, name: str, image: str, chain: Chain, volume: VolumeRecord
) -> CapturedDisk:
    return CapturedDisk(
        name=name,
        # Of that volume too: an answer that was given before a reset is not taken for one about the new disk.
        id=f"c{view.uid}-{attempt}-{number}-{hashlib.sha256(volume.handle.encode()).hexdigest()[:8]}",
        node=volume.node,
        volume=volume.handle,
        image=image,
        parent=chain[-1].digest,
        virtual_size_bytes=chain[-1].virtual_size_bytes,
        repository=view.spec.repository,
    )


_Found = tuple[str, str, Chain, VolumeRecord]
"""Name of the disk in the status, its image, that image's chain, and its volume."""
