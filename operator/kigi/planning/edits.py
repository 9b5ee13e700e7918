"""Edits of a state that wait: machines keep the content that they have taken until their next reset or switch.

An edit is another content (images, disks, hardware, machines) under the same name. Each volume of a boot disk records
the state and the hash of the content that the machine took last. Under ``onEdit: OnReset`` a machine with another hash
keeps its disks as its volumes define them, and its VM except for what is not of the state; a machine that the edit
removed stays as well. The record is the last step of taking a content: an operator that dies before it repeats a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kigi.domain import kinds, names
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.kubevirt import run_strategy_of
from kigi.domain.machine_settings import START_SETTINGS
from kigi.domain.names import machine_name
from kigi.domain.observed import Slot, VolumeRecord
from kigi.domain.systems import ResolvedDisk, ResolvedMachine
from kigi.planning.hashes import older_template_hash
from kigi.planning.observed_disks import ObservedDisks
from kigi.planning.placed import PlacedTarget, Situation
from kigi.planning.resets import Requests
from kigi.planning.steps import PatchObject, Step
from kigi.planning.targets import Blueprint, InstanceTarget, MachineTarget, edits_wait, instance_target, is_on
from kigi.planning.view import InstanceView, MachineState
from kigi.planning.vm_manifest import VmSettings, hook_annotation


def with_older_content(
    view: InstanceView,
    disks: ObservedDisks,
    requests: Requests,
    targets: Sequence[MachineTarget],
    hook_image: str,
) -> tuple[MachineTarget, ...]:
    """The targets, each with the content that it keeps, and machines that an edit removed. O(machines)."""
    if not edits_wait(view.spec):
        return tuple(targets)
    machines = {machine.slot: machine for machine in view.machines if view.owns(machine.vm)}
    older = _Older(view, disks, hook_image)
    found = [older.content_of(target, machines.get(target.slot)) for target in targets]
    removed = list(_removed(view, disks, requests, {target.slot for target in targets}, machines))
    if not removed:
        return tuple(found)
    found += [older.removed(instance, volume, machine) for instance, volume, machine in removed]
    return tuple(sorted(found, key=lambda target: target.machine))


def record_content(situation: Situation) -> Iterator[Step]:
    """Records the state and content that machines have taken without a new disk, on the volumes of their boot disks.

    Safe: the VM has the content already. Until the record exists, the VM counts as one that has still to take it.
    """
    volumes = {volume.meta.name: volume for volume in situation.view.volumes}
    for placed in situation.placed:
        target, machine = placed.target, placed.observed
        if target.is_older or placed.is_new or machine is None or not situation.view.owns(machine.vm):
            continue
        taken = machine.vm.claim == placed.claim and machine.vm.template_hash == target.blueprint.template_hash
        record = replace(placed.fingerprint, system=target.system, content=target.blueprint.content)
        volume = volumes.get(placed.disks[0].volume)
        if taken and record != placed.fingerprint and volume is not None:
            patch = {"metadata": {"annotations": {names.ANNOTATION_FINGERPRINT: record.to_text()}}}
            yield PatchObject(kinds.VOLUME, None, volume.meta.name, volume.meta.uid, patch)


def _removed(
    view: InstanceView,
    disks: ObservedDisks,
    requests: Requests,
    known: set[Slot],
    machines: dict[Slot, MachineState],
) -> Iterator[tuple[InstanceTarget, VolumeRecord, MachineState]]:
    """Machines that run the state of their instance, which does not have them any more."""
    instance = instance_target(view)
    for slot in disks.slots():
        machine, volume = machines.get(slot), disks.current(slot)
        if slot in known or machine is None or volume is None or machine.vm.meta.deleting:
            continue
        record = view.fingerprint_of(volume)
        if record is None or record.system != instance.system:
            continue
        if not set(requests.wanted(slot, instance.wanted)) <= set(record.seen):
            continue
        if machine.vm.claim == volume.claim and disks.is_intact(volume):
            yield instance, volume, machine


class _Older:
    """Targets with the content that their disks and VMs have."""

    def __init__(self, view: InstanceView, disks: ObservedDisks, hook_image: str) -> None:
        self._view, self._disks, self._hook_image = view, disks, hook_image
        self._known: dict[object, Blueprint] = {}

    def content_of(self, target: MachineTarget, machine: MachineState | None) -> MachineTarget:
        """The target, or the one with the older content that it keeps.

        A disk that the VM does not name is not in use: it is replaced. A VM that is missing gets the present hardware.
        """
        volume = self._disks.current(target.slot)
        record = self._view.fingerprint_of(volume) if volume is not None else None
        if volume is None or record is None or not target.awaits_reset(record):
            return target
        if (machine is not None and machine.vm.claim != volume.claim) or not self._disks.is_intact(volume):
            return target
        return replace(target, blueprint=self._blueprint(target.blueprint, record, volume, machine), is_older=True)

    def removed(self, instance: InstanceTarget, volume: VolumeRecord, machine: MachineState) -> MachineTarget:
        """The target of a machine that the state does not have any more."""
        record = self._view.fingerprint_of(volume)
        assert record is not None
        own = next((each for each in self._view.settings.machines if each.name == volume.machine), None)
        empty = ResolvedMachine(volume.machine, "", volume.chain)
        blueprint = Blueprint.of(instance.system, empty, self._view.spec.placement, None, "")
        return MachineTarget(
            instance=instance.name,
            blueprint=self._blueprint(blueprint, record, volume, machine),
            vm_name=machine_name(self._view.deployment, instance.name, volume.machine),
            running=is_on(self._view, own),
            wanted=instance.wanted,
            edits_wait=True,
            is_older=True,
        )

    def _blueprint(
        self, present: Blueprint, record: Fingerprint, volume: VolumeRecord, machine: MachineState | None
    ) -> Blueprint:
        """``present`` with the layers of the disks and the hardware of the VM; equal machines share one."""
        disks = tuple((name, self._disks.extra(volume, name)) for name, _ in record.disks)
        chains = (volume.chain, *(extra.chain for _, extra in disks if extra is not None))
        digests = tuple(layer.digest for chain in chains for layer in chain)
        key = (present.key, digests, record.content, machine.vm.hardware if machine is not None else None)
        if key not in self._known:
            self._known[key] = self._new_blueprint(present, record, volume, machine)
        return self._known[key]

    def _new_blueprint(
        self, present: Blueprint, record: Fingerprint, volume: VolumeRecord, machine: MachineState | None
    ) -> Blueprint:
        resolved, placement, hook = present.machine, self._view.spec.placement, self._view.kubevirt.hook
        own = resolved.settings
        if machine is not None:
            own = {key: value for key, value in own.items() if key in START_SETTINGS}
        known = {disk.name: disk for disk in resolved.disks}
        extra = [(name, self._disks.extra(volume, name)) for name, _ in record.disks]
        disks = tuple(
            replace(known.get(name, ResolvedDisk(name, "", (), "virtio")), image="", chain=found.chain)
            for name, found in extra
            if found is not None
        )
        older = replace(resolved, chain=volume.chain, settings=own, disks=disks)
        found = replace(
            Blueprint.of(present.system, older, placement, hook, self._hook_image),
            content=record.content,
        )
        if machine is None:
            return found
        strategy = run_strategy_of(own.get("guestPowerOffPolicy"))
        hashed = older_template_hash(machine.vm.hardware, strategy, placement, hook, self._hook_image)
        return replace(found, hardware_hash=machine.vm.hardware, template_hash=hashed)


def older_machine_patch(placed: PlacedTarget, machine: MachineState, settings: VmSettings) -> PatchObject:
    """The fields of a VM that are not of its state: whether it runs, tolerations, the disk hook and Kigi's records."""
    blueprint, meta = placed.target.blueprint, machine.vm.meta
    strategy = run_strategy_of(blueprint.machine.settings.get("guestPowerOffPolicy"))
    until, tolerations = settings.halted_until, [each.to_api() for each in settings.placement.tolerations]
    sidecars = hook_annotation(settings.hook_image) if settings.hook == "Sidecar" else None
    patch = {
        "metadata": {
            "annotations": {
                names.ANNOTATION_TEMPLATE_HASH: blueprint.template_hash,
                names.ANNOTATION_HALTED_UNTIL: until.isoformat() if until is not None else None,
            }
        },
        "spec": {
            "runStrategy": strategy if settings.running else "Halted",
            "template": {
                "metadata": {"annotations": {names.HOOK_SIDECARS: sidecars}},
                "spec": {"tolerations": tolerations or None},
            },
        },
    }
    return PatchObject(kinds.MACHINE, meta.namespace, meta.name, meta.uid, patch)
