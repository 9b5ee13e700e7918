"""Requests for resets in the targets of a plan. Fingerprints of volumes record which machine has had which request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kigi.domain.observed import Slot
from kigi.domain.resets import ResetRequest, newest_of, wanted_marks
from kigi.planning.observed_disks import ObservedDisks
from kigi.planning.targets import MachineTarget


class Requests:
    """The accepted requests of a deployment, by instance."""

    def __init__(self, requests: Iterable[ResetRequest], disks: ObservedDisks) -> None:
        self._requests, self._disks = tuple(requests), disks
        self._by_instance: dict[str, tuple[ResetRequest, ...]] = {}

    def wanted(self, slot: Slot, tokens: Sequence[str]) -> tuple[str, ...]:
        """Marks that the disk in a slot must have; ``tokens``: those of its reset tokens."""
        if not self._requests:
            return tuple(tokens)
        instance, machine = slot
        if instance not in self._by_instance:
            self._by_instance[instance] = newest_of(self._requests, instance)
        volume, record = self._disks.current(slot), self._disks.fingerprint(slot)
        made = volume.meta.created if volume is not None and record is not None else None
        return wanted_marks(self._by_instance[instance], machine, tokens, record.seen if record else (), made)

    def added_to(self, targets: Iterable[MachineTarget]) -> tuple[MachineTarget, ...]:
        """The targets with the marks of requests. O(targets x requests of one instance)."""
        if not self._requests:
            return tuple(targets)
        return tuple(replace(target, wanted=self.wanted(target.slot, target.wanted)) for target in targets)
