"""Volumes and claims of an instance as they are: the newest revision of each machine, and whether it can be used."""

from __future__ import annotations

from collections.abc import Iterable

from kigi.domain.fingerprint import Fingerprint
from kigi.domain.names import claim_name
from kigi.domain.observed import Slot, VolumeRecord
from kigi.planning.targets import MachineTarget
from kigi.planning.view import InstanceView


class ObservedDisks:
    """Volumes and claims of an instance, by slot and by name."""

    def __init__(self, view: InstanceView) -> None:
        self._view = view
        self._claims = {claim.meta.name: claim for claim in view.claims}
        self._extra = {(v.slot, v.revision, v.disk): v for v in view.volumes if v.disk}
        self._last: dict[Slot, int] = {}
        self._current: dict[Slot, VolumeRecord] = {}
        for volume in view.volumes:
            slot = volume.slot
            self._last[slot] = max(self._last.get(slot, 0), volume.revision)
            if volume.disk or volume.meta.deleting:
                continue
            known = self._current.get(slot)
            if known is None or known.revision < volume.revision:
                self._current[slot] = volume

    def current(self, slot: Slot) -> VolumeRecord | None:
        """Boot volume of the newest revision that is not terminating."""
        return self._current.get(slot)

    def next_revision(self, slot: Slot) -> int:
        """A number that no volume of the slot has or had, terminating ones included."""
        return self._last.get(slot, 0) + 1

    def fingerprint(self, slot: Slot) -> Fingerprint | None:
        """State that the current disk was created for; None: there is none, or it is unknown."""
        current = self._current.get(slot)
        return self._view.fingerprint_of(current) if current is not None else None

    def serves(self, current: VolumeRecord, target: MachineTarget) -> bool:
        """Whether the target can keep this revision."""
        if target.is_older:
            return self.is_intact(current)
        return (
            current.node in self._view.nodes
            and self._usable(current)
            and not target.needs_new_disk(self._view.fingerprint_of(current))
            and all(self._can_complete(current, disk.name) for disk in target.blueprint.machine.disks)
        )

    def is_intact(self, current: VolumeRecord) -> bool:
        """Whether every disk of this revision exists and can be used."""
        fingerprint = self._view.fingerprint_of(current)
        extra = [self.extra(current, name) for name, _ in fingerprint.disks] if fingerprint is not None else [None]
        volumes = (current, *extra)
        return current.node in self._view.nodes and all(
            volume is not None and not volume.meta.deleting and self._usable(volume) for volume in volumes
        )

    def extra(self, root: VolumeRecord, disk: str) -> VolumeRecord | None:
        """Volume of an extra disk of the same revision as the boot volume ``root``."""
        return self._extra.get((root.slot, root.revision, disk))

    def slots(self) -> Iterable[Slot]:
        """Slots that have a disk."""
        return self._current

    def _usable(self, volume: VolumeRecord) -> bool:
        """False if the claim was deleted by hand: the volume is bound to its uid, so a recreated claim never binds."""
        claim = self._claims.get(volume.claim)
        return not claim.meta.deleting if claim is not None else not volume.claim_bound

    def _can_complete(self, root: VolumeRecord, disk: str) -> bool:
        """Whether an extra disk of that revision is usable, or was never created and still can be."""
        volume = self.extra(root, disk)
        if volume is None:
            return claim_name(self._view.deployment, *root.slot, root.revision, disk) not in self._claims
        return not volume.meta.deleting and self._usable(volume)
