"""Orders of a SystemCapture to the nodes; pure.

An order names nothing that the capture's status could make up. Its id begins with the capture's uid. Its volume is a
disk of the instance in the capture's spec: a copy is ordered only of a volume that exists and belongs to that
instance, with the volume's own node, chain and size. An order to keep a copy is the order that the NodeCache has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from kigi.api.capture import CapturedDisk
from kigi.api.node_cache import CaptureOrder
from kigi.domain import names
from kigi.domain.observed import VolumeRecord
from kigi.planning.capture_progress import CaptureProgress, CaptureStage, is_stopped_by_daemon

Action = Literal["Check", "Copy", "Keep"]
_ACTIONS: Mapping[CaptureStage, Action] = {
    "Checking": "Check",
    "Copying": "Copy",
    "Storing": "Keep",
    "Publishing": "Keep",
}


@dataclass(frozen=True, slots=True)
class CaptureOwner:
    """What a capture may name: itself, and one instance of its namespace."""

    uid: str
    namespace: str
    deployment: str
    instance: str

    def volume_of(self, progress: CaptureProgress, disk: CapturedDisk) -> str:
        """CSI volume handle of a disk of the instance."""
        extra = "" if disk.is_boot_disk else disk.disk
        volume = names.volume_name(self.namespace, self.deployment, self.instance, disk.machine, disk.revision, extra)
        return names.volume_handle(volume, progress.instance_uid or "")

    def id_of(self, progress: CaptureProgress, disk: CapturedDisk) -> str:
        """Id of the disk's copy: of this attempt and this volume, as a report on another does not count for it."""
        volume_hash = hashlib.sha256(self.volume_of(progress, disk).encode()).hexdigest()[:16]
        return f"{id_prefix(self.uid)}{progress.copies_of}-{volume_hash}"


def id_prefix(uid: str) -> str:
    """Beginning of the ids of all copies of a capture, and of no other capture's."""
    return f"c{uid}-"


def action_of(progress: CaptureProgress) -> Action | None:
    """What the nodes do now; None: there is no order. Copies are kept while the VMs of a finished copy are resumed."""
    if progress.stage == "Resuming" and progress.captured:
        return "Keep"
    return _ACTIONS.get(progress.stage)


def orders_of(
    owner: CaptureOwner,
    progress: CaptureProgress,
    node: str,
    volume_of: Callable[[str], VolumeRecord | None],
    present: Mapping[str, CaptureOrder],
    repository: str | None,
) -> Iterator[CaptureOrder]:
    """Orders to one node. ``volume_of``: the volume with a handle; ``present``: orders in the node's NodeCache by id.

    ``repository``: the one that the namespace may use, and the capture uses; None: no copy is ordered. O(disks).
    """
    action = action_of(progress)
    if action is None:
        return
    running = {machine.name for machine in progress.machines if machine.method != "Off"}
    stopped = {machine.name for machine in progress.machines if is_stopped_by_daemon(machine)}
    for disk in progress.disks:
        id_ = owner.id_of(progress, disk)
        if action == "Keep" and id_ in present:
            yield present[id_].model_copy(update={"action": "Keep"})
            continue
        handle = owner.volume_of(progress, disk)
        volume = volume_of(handle)
        if repository is None or volume is None or volume.node != node or not _is_of(owner, volume):
            continue
        yield CaptureOrder(
            id=id_,
            volume=handle,
            parent_digest=volume.chain[-1].digest,
            virtual_size_bytes=volume.chain[-1].virtual_size_bytes,
            repository_name=repository,
            action=action,
            mounted=disk.machine in running,
            paused_by="Daemon" if action == "Copy" and disk.machine in stopped else None,
        )


def _is_of(owner: CaptureOwner, volume: VolumeRecord) -> bool:
    return volume.deployment == (owner.namespace, owner.deployment) and volume.instance == owner.instance
