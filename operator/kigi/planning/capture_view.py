"""What the decision on one SystemCapture reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kigi.api.capture import CapturedDisk, SystemCaptureSpec
from kigi.api.node_cache import CaptureReport
from kigi.domain import names
from kigi.domain.layers import DEFAULT_REPOSITORY
from kigi.errors import KigiError
from kigi.planning.capture_orders import CaptureOwner
from kigi.planning.capture_progress import CaptureProgress
from kigi.planning.copies import NodeLife
from kigi.planning.view import InstanceView

MAX_PAUSE = timedelta(seconds=60)
"""Default of the setting: longest time for which an attempt pauses VMs; then they are resumed, copied or not."""
CLOCK_SKEW = timedelta(seconds=5)
"""A time further in the future than this shows that a clock was set, or that another machine's is wrong."""
ObjectKey = tuple[str, str]
"""(kind, name)."""


@dataclass(frozen=True, slots=True)
class ObservedVmi:
    """A VirtualMachineInstance as the API server has it now."""

    uid: str
    paused: bool
    """KubeVirt's condition Paused."""


@dataclass(frozen=True, slots=True)
class CaptureView:
    """Everything that the decision on one SystemCapture needs."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    has_finalizer: bool
    spec: SystemCaptureSpec
    progress: CaptureProgress
    instance: InstanceView | KigiError
    """The instance as it is, or why it cannot be captured."""
    agents: frozenset[str]
    """uids of the VMIs whose guest agent is connected."""
    taken: frozenset[ObjectKey]
    """Every SystemNode and VMImageNode of the namespace."""
    reports: Mapping[str, CaptureReport]
    """The nodes' reports, by id of the copy."""
    lives: Mapping[str, NodeLife]
    """By node; a node that is missing here is gone."""
    now: datetime
    created: datetime | None = None
    """metadata.creationTimestamp."""
    max_pause: timedelta = MAX_PAUSE
    repository: str | KigiError = DEFAULT_REPOSITORY
    """LayerRepository of the new layers, or why the namespace has none."""
    images: Mapping[str, str] = field(default_factory=dict)
    """VMImageNode of the namespace for the topmost layer of each of the instance's disks, by digest."""
    vmis: Mapping[str, ObservedVmi] = field(default_factory=dict)
    """VMIs by machine, read from the API server itself when ``machines_to_verify`` names some."""
    existing: Mapping[ObjectKey, Mapping[str, Any]] = field(default_factory=dict)
    """Spec of each object of the result that exists, read from the API server itself in the stage Publishing."""

    def life(self, disk: CapturedDisk) -> NodeLife:
        """Life of the node that has the disk."""
        return self.lives.get(disk.node_name, "Gone")

    def report(self, progress: CaptureProgress, disk: CapturedDisk) -> CaptureReport | None:
        """Report of the disk's node on its copy in that attempt.

        Once the copies are captured, only they count. A node that lost one before the order to keep it makes another,
        of a VM that runs again: then the captured copy is Lost.
        """
        found = self.reports.get(self.owner.id_of(progress, disk))
        if found is not None and progress.captured and None not in (disk.copy_uid, found.copy_uid):
            return found if found.copy_uid == disk.copy_uid else CaptureReport(id=found.id, state="Lost")
        return found

    @property
    def owner(self) -> CaptureOwner:
        """What orders of the capture may name."""
        return owner_of(self.uid, self.namespace, self.spec)

    def vm_name(self, machine: str) -> str:
        """Name of the machine's VirtualMachine and VirtualMachineInstance."""
        deployment, instance = self.spec.instance
        return names.machine_name(deployment, instance, machine)


def owner_of(uid: str, namespace: str, spec: SystemCaptureSpec) -> CaptureOwner:
    """What orders of a capture with that spec may name."""
    deployment, instance = spec.instance
    return CaptureOwner(uid, namespace, deployment, instance)


def system_name(name: str, spec: SystemCaptureSpec) -> str:
    """Name of the resulting SystemNode."""
    return (spec.target.system_name if spec.target is not None else None) or name


def image_name(system: str, disk: CapturedDisk) -> str:
    """Name of the VMImageNode of a disk. Names of machines and disks have no dot, so each pair has its own."""
    return f"{system}-{disk.machine}" if disk.is_boot_disk else f"{system}-{disk.machine}.{disk.disk}"


def lasts(since: datetime, now: datetime, limit: timedelta) -> bool:
    """Whether at most ``limit`` has passed. A clock that was set back does not stretch it: then it has passed."""
    return -CLOCK_SKEW <= now - since <= limit
