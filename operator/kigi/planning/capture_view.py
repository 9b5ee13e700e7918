"""What the decision on one SystemCapture reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from kigi.api.capture import CapturedDisk, CapturedMachine, SystemCaptureSpec, SystemCaptureStatus
from kigi.api.node_cache import CaptureReport
from kigi.errors import ChainTooDeep, KigiError
from kigi.planning.copies import NodeLife
from kigi.planning.view import DeploymentView

RESUMED_SHOWN = timedelta(seconds=30)
"""KubeVirt shows for a moment longer that a VM is paused; one that it shows so after this was paused by somebody."""


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
    status: SystemCaptureStatus
    deployment: DeploymentView | KigiError
    """The deployment as it is, or why it cannot be captured."""
    agents: frozenset[str]
    """uids of the instances whose guest agent answers."""
    taken: frozenset[tuple[str, str]]
    """(kind, name) of every state and image of the namespace."""
    reports: Mapping[str, CaptureReport]
    """What the nodes say of the copies, by id."""
    lives: Mapping[str, NodeLife]
    """Of every node, by name; one that is not in it is gone."""
    now: datetime

    def life(self, disk: CapturedDisk) -> NodeLife:
        """Of the node that has the disk."""
        return self.lives.get(disk.node, "Gone")


def system_name(name: str, spec: SystemCaptureSpec) -> str:
    """Name of the SystemNode that results."""
    return spec.system or name


def image_name(system: str, disk: str) -> str:
    """Name of the VMImageNode of a disk, named as in the status; machines' names have no dot, so no two share one."""
    return f"{system}-{disk.replace('/', '.')}"


def too_deep(where: str, image: str, cause: str) -> ChainTooDeep:
    return ChainTooDeep(
        f"{where}: VMImageNode {image}: {cause}; run 'kigi flatten {image} --name NEW', deploy a state that names NEW, "
        "and capture that"
    )


def is_to_pause(machine: CapturedMachine) -> bool:
    return machine.method in ("Pause", "FreezeAndPause") and machine.paused_at is None


CLOCK_SKEW = timedelta(seconds=5)
"""A time further in the future than this shows that a clock was set, or that another machine's is wrong."""


def lasts(since: datetime, now: datetime, limit: timedelta) -> bool:
    """Whether at most ``limit`` has passed. A clock that was set back does not stretch it: then it has passed."""
    return -CLOCK_SKEW <= now - since <= limit
