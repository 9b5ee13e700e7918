"""The parts of a changed record that the rules behind ``triggers`` depend on."""

from __future__ import annotations

from typing import TypeVar

from kigi.domain.observed import VolumeRecord
from kigi.mirror.records import CacheRecord, CaptureRecord, Record
from kigi.mirror.store import Change
from kigi.planning.capture_orders import action_of
from kigi.planning.capture_progress import CaptureProgress

R = TypeVar("R", bound=Record)


def typed(change: Change, kind: type[R]) -> tuple[R | None, R | None]:
    """The record before and after the change, as records of this kind."""
    old, new = change.old, change.new
    assert old is None or isinstance(old, kind)
    assert new is None or isinstance(new, kind)
    return old, new


def namespace_of(change: Change) -> str:
    """The namespace of the changed object; empty for one that has none."""
    return change.key[0] or ""


def life_of(record: Record | None) -> object:
    """What deletion and finalizers are read from."""
    return (record.meta.uid, record.meta.deleting, record.meta.finalizers) if record is not None else None


def version_of(record: Record | None) -> object:
    """Changes with the spec, and with a recreated object of the same name."""
    return (record.meta.uid, record.meta.generation) if record is not None else None


def life_or_spec(record: Record | None) -> object:
    """Deletion, finalizers and spec."""
    return life_of(record), version_of(record)


def content_changed(change: Change) -> bool:
    """Whether the object came, went, is being deleted now, or changed in a field that Kigi reads of its kind."""
    old, new = change.old, change.new
    if old is None or new is None:
        return True
    return any(getattr(old, name) != getattr(new, name) for name in new.__slots__ if name not in ("meta", "body")) or (
        old.meta.deleting != new.meta.deleting
    )


def progress_of(record: CaptureRecord | None) -> CaptureProgress:
    """Progress of a capture; that of one which has not begun, if there is none or it cannot be read."""
    progress = record.progress if record is not None else None
    return progress if isinstance(progress, CaptureProgress) else CaptureProgress()


def capture_orders(progress: CaptureProgress) -> object:
    """The part of a capture that its nodes' NodeCaches depend on."""
    disks = [(disk.machine, disk.disk, disk.node_name, disk.revision) for disk in progress.disks]
    return action_of(progress), progress.copies_of, disks


def disk_of(volume: VolumeRecord | None) -> object:
    """The part of a volume that its node's NodeCache depends on."""
    return (life_of(volume), volume.node, volume.chain) if volume is not None else None


def reported_overlays(cache: CacheRecord) -> object:
    """What the daemon reports of overlays, and for which orders."""
    return (cache.volumes, cache.observed_generation, cache.meta.generation)


def has_more_capacity(old: CacheRecord, new: CacheRecord) -> bool:
    """Whether a disk that did not fit may fit now."""
    return (
        new.usable_bytes > old.usable_bytes
        or len(new.filling) < len(old.filling)
        or new.wanted_bytes < old.wanted_bytes
    )
