"""History of an instance: which machines got other disks, from which state to which, and by whose decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta

from kigi.api.instance import MAX_HISTORY, MAX_HISTORY_MACHINES, HistoryEntry
from kigi.domain.observed import VolumeRecord
from kigi.domain.resets import ResetRequest, request_behind
from kigi.domain.systems import ResolvedSystem
from kigi.planning.placed import PlacedTarget
from kigi.planning.view import InstanceView

ONE_DECISION = timedelta(seconds=60)
"""Changes of one kind within this time are one entry: placing all machines may take several reconciles."""
MAX_WRITER = 128
_Kind = tuple[str, str | None, str, ResetRequest | None]
"""Action, state before, state after, request of a reset."""


def history(view: InstanceView, placed: Sequence[PlacedTarget]) -> list[HistoryEntry]:
    """The old entries, and new ones for machines whose revision is not in the old status. O(machines).

    Compared with the status, not with volumes: if an operator dies before it records a change, the next one records it.
    """
    old = view.old_status
    before = {m.name: (m.revision, m.system_name or old.system_name) for m in old.machines} if old else {}
    volumes: dict[str, list[VolumeRecord]] = defaultdict(list)
    for volume in view.volumes:
        if not volume.disk:
            volumes[volume.machine].append(volume)
    changed: dict[_Kind, list[str]] = defaultdict(list)
    for one in placed:
        name = one.target.machine
        revision, system = before.get(name, (0, None))
        if name not in before or revision < one.revision:
            action = _action(view, one, name in before, system, volumes.get(name, ()))
            request = request_behind(one.fingerprint, view.resets) if action == "Reset" else None
            changed[(action, system, one.fingerprint.system, request)].append(name)
    entries = list(old.history) if old else []
    for kind, machines in changed.items():
        entries = _added(entries, _entry(kind, machines, view), machines, _size(view, placed))
    return entries[-MAX_HISTORY:]


def _size(view: InstanceView, placed: Sequence[PlacedTarget]) -> int:
    """Number of the instance's machines, those without a node included."""
    state = view.systems.get(view.system_name)
    return len(state.machines) if isinstance(state, ResolvedSystem) else len(placed)


def new_entries(old: Sequence[HistoryEntry], new: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Entries that are not in ``old``; an entry that got more machines counts as new."""
    before = [entry.model_dump_json() for entry in old]
    return [entry for entry in new if entry.model_dump_json() not in before]


def entry_text(entry: HistoryEntry) -> str:
    """One line of text, such as ``a -> b: 3 machines (db, mail, web), by kubectl``."""
    way = f"{entry.from_system_name} -> {entry.to_system_name}" if entry.from_system_name else entry.to_system_name
    more = ", ..." if entry.machine_count > len(entry.machines) else ""
    which = f" ({', '.join(entry.machines)}{more})" if entry.machines else ""
    request = f", SystemReset {entry.request_name}" if entry.request_name else ""
    return f"{way}: {entry.machine_count} machines{which}{request}, by {entry.requested_by or 'unknown'}"


def _action(
    view: InstanceView, placed: PlacedTarget, is_known: bool, system: str | None, volumes: Iterable[VolumeRecord]
) -> str:
    if not is_known:
        return "Deployed"
    if system != placed.fingerprint.system:
        return "Switched"
    return "Renewed" if _replaces_equal_disk(view, placed, volumes) else "Reset"


def _replaces_equal_disk(view: InstanceView, placed: PlacedTarget, volumes: Iterable[VolumeRecord]) -> bool:
    """Whether the previous disk had the same fingerprint: it is replaced because it cannot be used."""
    before = max((v for v in volumes if v.revision < placed.revision), key=lambda v: v.revision, default=None)
    return before is not None and view.fingerprint_of(before) == placed.fingerprint


def _entry(kind: _Kind, machines: Sequence[str], view: InstanceView) -> HistoryEntry:
    action, before, after, request = kind
    by = request.requested_by if request is not None else view.changed_by
    return HistoryEntry(
        decision_time=view.now.replace(microsecond=0),
        action=action,
        request_name=request.name if request is not None else None,
        requested_by=by[:MAX_WRITER] or None,
        from_system_name=before,
        to_system_name=after,
        machine_count=len(machines),
        machines=sorted(machines)[:MAX_HISTORY_MACHINES],
    )


def _added(entries: list[HistoryEntry], entry: HistoryEntry, machines: Sequence[str], size: int) -> list[HistoryEntry]:
    """The entries with the new one; joined to the last one if that is the same decision about other machines."""
    if entries:
        last = entries[-1]
        kept = {"decision_time": entry.decision_time, "machines": entry.machines, "machine_count": entry.machine_count}
        same = last.machines and last.model_copy(update=kept) == entry
        if same and entry.decision_time - last.decision_time < ONE_DECISION and not set(last.machines) & set(machines):
            names = sorted([*last.machines, *machines])[:MAX_HISTORY_MACHINES]
            joined = {"machines": names, "machine_count": last.machine_count + len(machines)}
            entries, entry = entries[:-1], last.model_copy(update=joined)
    if entry.machine_count >= size:
        entry = entry.model_copy(update={"machines": []})
    return [*entries, entry]
