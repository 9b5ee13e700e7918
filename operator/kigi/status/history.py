"""Switches and resets on record: which machines got other disks, from which state to which, and by whose wish."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from kigi.api.deployment import HistoryEntry
from kigi.domain.observed import Slot, VolumeRecord
from kigi.planning.deployment import Target
from kigi.planning.view import DeploymentView

MAX_ENTRIES = 100
ONE_DECISION = timedelta(seconds=60)
"""A wish that is met in several passes, as nodes come to have room, is one entry."""
_Action = Literal["Deployed", "Switched", "Reset", "Renewed"]
_Kind = tuple[_Action, str | None, str, str | None]
"""Action, state before, state after, token."""


def history(view: DeploymentView, targets: Sequence[Target]) -> list[HistoryEntry]:
    """The old entries and those of this pass: of machines with another revision than the status had. O(machines).

    The status is compared, not the volumes, so that what an operator did that died before it could tell is told by
    the next one.
    """
    old = list(view.old_status.history) if view.old_status else []
    known = {
        (instance.instance, machine.name): (machine.revision, machine.system or instance.system)
        for instance in (view.old_status.instances if view.old_status else ())
        for machine in instance.machines
    }
    volumes: dict[Slot, list[VolumeRecord]] = defaultdict(list)
    for volume in view.volumes:
        if not volume.disk:
            volumes[volume.slot].append(volume)
    changed: dict[_Kind, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for target in targets:
        before = known.get(target.wish.slot)
        if before is not None and before[0] >= target.revision:
            continue
        system = target.fingerprint.system
        token = next((text for text in reversed(target.fingerprint.resets) if text is not None), None)
        if before is None:
            action: _Action = "Deployed"
        elif before[1] != system:
            action = "Switched"
        else:
            action = "Renewed" if _is_same_target(view, target, volumes[target.wish.slot]) else "Reset"
        kind = (action, before[1] if before else None, system, token)
        changed[kind][target.wish.instance].append(target.wish.machine)
    sizes: dict[int, int] = defaultdict(int)
    for target in targets:
        sizes[target.wish.instance] += 1
    entries = old
    for kind, instances in changed.items():
        for machines, indices in _alike(instances, sizes):
            entries = _added(entries, _entry(kind, machines, indices, view))
    return entries[-MAX_ENTRIES:]


def new_entries(old: Sequence[HistoryEntry], new: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Entries that were not there before, a longer one included."""
    before = [entry.model_dump_json() for entry in old]
    return [entry for entry in new if entry.model_dump_json() not in before]


def entry_text(entry: HistoryEntry) -> str:
    """One line for people."""
    what = f"{len(entry.instances)} instances ({ranges(entry.instances)})"
    machines = f", machines {', '.join(entry.machines)}" if entry.machines else ""
    way = f"{entry.from_system} -> {entry.to_system}" if entry.from_system else entry.to_system
    token = f", token {entry.token!r}" if entry.token is not None else ""
    return f"{way}: {what}{machines}{token}, by {entry.by or 'unknown'}"


def ranges(numbers: Iterable[int]) -> str:
    """``0-2, 5`` for 0, 1, 2 and 5."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _is_same_target(view: DeploymentView, target: Target, volumes: Iterable[VolumeRecord]) -> bool:
    """The disk before was made for the very same thing: it is replaced because it cannot be used."""
    before = max((v for v in volumes if v.revision < target.revision), key=lambda v: v.revision, default=None)
    return before is not None and view.fingerprint_of(before) == target.fingerprint


def _alike(instances: dict[int, list[str]], sizes: dict[int, int]) -> list[tuple[tuple[str, ...], list[int]]]:
    """Instances by the machines that changed in them; all of an instance's machines are the empty tuple."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for instance, machines in sorted(instances.items()):
        groups[() if len(machines) == sizes[instance] else tuple(sorted(machines))].append(instance)
    return list(groups.items())


def _entry(kind: _Kind, machines: tuple[str, ...], instances: list[int], view: DeploymentView) -> HistoryEntry:
    action, before, after, token = kind
    return HistoryEntry(
        time=_whole(view.now),
        action=action,
        by=view.changed_by,
        instances=instances,
        machines=list(machines),
        from_system=before,
        to_system=after,
        token=token,
    )


def _added(entries: list[HistoryEntry], entry: HistoryEntry) -> list[HistoryEntry]:
    """Joined to the last entry if that is of the same decision about other instances."""
    for place in range(len(entries) - 1, max(len(entries) - 9, -1), -1):
        other = entries[place]
        same = other.model_copy(update={"time": entry.time, "instances": entry.instances}) == entry
        if same and entry.time - other.time < ONE_DECISION and not set(other.instances) & set(entry.instances):
            joined = other.model_copy(update={"instances": sorted([*other.instances, *entry.instances])})
            return [*entries[:place], joined, *entries[place + 1 :]]
    return [*entries, entry]


def _whole(time: datetime) -> datetime:
    return time.replace(microsecond=0)
