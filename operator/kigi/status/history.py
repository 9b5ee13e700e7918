"""History of switches and resets: which machines got other disks, from which state to which, and by which writer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Literal

from kigi.api.deployment import HistoryEntry
from kigi.domain.observed import Slot, VolumeRecord
from kigi.planning.placed import PlacedTarget
from kigi.planning.view import DeploymentView

MAX_ENTRIES = 100
ONE_DECISION = timedelta(seconds=60)
"""Changes of one kind within this time are one entry: placing all instances may take several reconciles."""
_JOINED_ENTRIES = 8
"""Number of last entries that a new one may be joined to: one change causes at most a few kinds of entries."""
_Action = Literal["Deployed", "Switched", "Reset", "Renewed"]
_Kind = tuple[_Action, str | None, str, str | None]
"""Action, state before, state after, token."""


def history(view: DeploymentView, placed: Sequence[PlacedTarget]) -> list[HistoryEntry]:
    """The old entries, and new ones for machines whose revision is not in the old status. O(machines).

    Compared with the status, not with volumes: if an operator dies before it records a change, the next one records it.
    """
    volumes = _boot_volumes(view)
    before = _recorded_revisions(view)
    changed: dict[_Kind, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in placed:
        revision, system = before.get(one.slot, (0, None))
        if one.slot in before and revision >= one.revision:
            continue
        token = next((text for text in reversed(one.fingerprint.resets) if text is not None), None)
        action = _action(view, one, one.slot in before, system, volumes.get(one.slot, ()))
        changed[(action, system, one.fingerprint.system, token)][one.target.instance].append(one.target.machine)
    sizes = Counter(one.target.instance for one in placed)
    entries = list(view.old_status.history) if view.old_status else []
    for kind, instances in changed.items():
        for machines, indices in _by_machines(instances, sizes):
            entries = _added(entries, _entry(kind, machines, indices, view))
    return entries[-MAX_ENTRIES:]


def new_entries(old: Sequence[HistoryEntry], new: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Entries that are not in ``old``; an entry that got more instances counts as new."""
    before = [entry.model_dump_json() for entry in old]
    return [entry for entry in new if entry.model_dump_json() not in before]


def entry_text(entry: HistoryEntry) -> str:
    """One line of text, such as ``a -> b: 3 instances (0-2), by kubectl``."""
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


def _boot_volumes(view: DeploymentView) -> Mapping[Slot, list[VolumeRecord]]:
    volumes: dict[Slot, list[VolumeRecord]] = defaultdict(list)
    for volume in view.volumes:
        if not volume.disk:
            volumes[volume.slot].append(volume)
    return volumes


def _recorded_revisions(view: DeploymentView) -> dict[Slot, tuple[int, str | None]]:
    """(revision, state) of each machine in the old status."""
    return {
        (instance.instance, machine.name): (machine.revision, machine.system or instance.system)
        for instance in (view.old_status.instances if view.old_status else ())
        for machine in instance.machines
    }


def _action(
    view: DeploymentView, placed: PlacedTarget, is_known: bool, system: str | None, volumes: Iterable[VolumeRecord]
) -> _Action:
    if not is_known:
        return "Deployed"
    if system != placed.fingerprint.system:
        return "Switched"
    return "Renewed" if _replaces_equal_disk(view, placed, volumes) else "Reset"


def _replaces_equal_disk(view: DeploymentView, placed: PlacedTarget, volumes: Iterable[VolumeRecord]) -> bool:
    """Whether the previous disk had the same fingerprint: it is replaced because it cannot be used."""
    before = max((v for v in volumes if v.revision < placed.revision), key=lambda v: v.revision, default=None)
    return before is not None and view.fingerprint_of(before) == placed.fingerprint


def _by_machines(
    instances: Mapping[int, list[str]], sizes: Mapping[int, int]
) -> list[tuple[tuple[str, ...], list[int]]]:
    """Instances by the machines that changed in them; the empty tuple means all machines of the instance."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for instance, machines in sorted(instances.items()):
        groups[() if len(machines) == sizes[instance] else tuple(sorted(machines))].append(instance)
    return list(groups.items())


def _entry(kind: _Kind, machines: tuple[str, ...], instances: list[int], view: DeploymentView) -> HistoryEntry:
    action, before, after, token = kind
    return HistoryEntry(
        time=view.now.replace(microsecond=0),
        action=action,
        by=view.changed_by,
        instances=instances,
        machines=list(machines),
        from_system=before,
        to_system=after,
        token=token,
    )


def _added(entries: list[HistoryEntry], entry: HistoryEntry) -> list[HistoryEntry]:
    """The entries with the new one; it is joined to a recent one of the same decision about other instances."""
    for index in range(len(entries) - 1, max(len(entries) - 1 - _JOINED_ENTRIES, -1), -1):
        other = entries[index]
        same = other.model_copy(update={"time": entry.time, "instances": entry.instances}) == entry
        if same and entry.time - other.time < ONE_DECISION and not set(other.instances) & set(entry.instances):
            joined = other.model_copy(update={"instances": sorted([*other.instances, *entry.instances])})
            return [*entries[:index], joined, *entries[index + 1 :]]
    return [*entries, entry]
