"""What the decision on one SystemCapture reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kigi.api.capture import CapturedDisk, SystemCaptureSpec
from kigi.api.node_cache import CaptureReport
from kigi.domain import names
from kigi.errors import KigiError
from kigi.planning.capture_progress import CaptureProgress
from kigi.planning.copies import NodeLife
from kigi.planning.view import DeploymentView

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
    deployment: DeploymentView | KigiError
    """The deployment as it is, or why it cannot be captured."""
    agents: frozenset[str]
    """uids of the VMIs whose guest agent is connected."""
    taken: frozenset[ObjectKey]
    """Every SystemNode and VMImageNode of the namespace."""
    reports: Mapping[str, CaptureReport]
    """The nodes' reports, by id of the copy."""
    lives: Mapping[str, NodeLife]
    """By node; a node that is missing here is gone."""
    now: datetime
    max_pause: timedelta = MAX_PAUSE
    vmis: Mapping[str, ObservedVmi] = field(default_factory=dict)
    """VMIs by machine, read from the API server itself when ``machines_to_verify`` names some."""
    existing: Mapping[ObjectKey, Mapping[str, Any]] = field(default_factory=dict)
    """Spec of each object of the result that exists, read from the API server itself in the phase Publishing."""

    def life(self, disk: CapturedDisk) -> NodeLife:
        """Life of the node that has the disk."""
        return self.lives.get(disk.node, "Gone")

    def vm_name(self, machine: str) -> str:
        """Name of the machine's VirtualMachine and VirtualMachineInstance."""
        return names.machine_name(self.spec.deployment.name, self.spec.instance, machine)


def system_name(name: str, spec: SystemCaptureSpec) -> str:
    """Name of the resulting SystemNode."""
    return spec.system or name


def disk_name(machine: str, disk: str) -> str:
    """Name of a disk in the status: ``web`` for the boot disk, ``web/data`` for the further disk ``data``."""
    return f"{machine}/{disk}" if disk else machine


def image_name(system: str, machine: str, disk: str) -> str:
    """Name of the VMImageNode of a disk. Names of machines and disks have no dot, so each pair has its own."""
    return f"{system}-{machine}.{disk}" if disk else f"{system}-{machine}"


def lasts(since: datetime, now: datetime, limit: timedelta) -> bool:
    """Whether at most ``limit`` has passed. A clock that was set back does not stretch it: then it has passed."""
    return -CLOCK_SKEW <= now - since <= limit
