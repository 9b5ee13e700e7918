"""Values of a sample, for the checks and for ``samples.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of ``status.conditions`` without heartbeat and probe times."""

    status: str
    reason: str = ""
    message: str = ""
    transition: str = ""
    """lastTransitionTime, RFC 3339."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a pod, init containers included."""

    id: str
    ready: bool
    restarts: int
    state: str
    """running, waiting or terminated."""


@dataclass(frozen=True, slots=True)
class ObjectState:
    """Compared fields of one API object."""

    uid: str
    version: str
    """resourceVersion; every write of the object changes it."""
    phase: str = ""
    """``status.phase``; for a VirtualMachine its printableStatus, for a Lease its holder."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    containers: Mapping[str, Container] = field(default_factory=dict)
    """Name -> container, for a Pod."""
    writers: Mapping[str, str] = field(default_factory=dict)
    """Field manager and subresource -> time of its last write."""


@dataclass(frozen=True, slots=True)
class Change:
    """A field of an object that differs from the previous sample; heartbeats do not count."""

    object: str
    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Process:
    """One of Kigi's processes on a node."""

    descriptors: int
    memory_bytes: int
    """Resident set (VmRSS)."""
    cpu_s: float
    """User and system time since its start."""


@dataclass(frozen=True, slots=True)
class LogGrowth:
    """Log output of one container since the previous sample."""

    lines: int = 0
    size_bytes: int = 0
    warnings: int = 0
    errors: int = 0
    examples: tuple[str, ...] = ()
    """The first warnings and errors, truncated."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """Observations inside one node."""

    mounts: tuple[str, ...]
    """Sorted ``mount point (type)`` of the node's process 1; a path that is mounted twice is listed twice."""
    processes: Mapping[str, Process]
    """``program pid@start`` -> figures; a replacement of a process has another key."""
    logs: Mapping[str, LogGrowth]
    """``pod/container`` -> growth."""


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """A Kubernetes Event of type Warning."""

    object: str
    reason: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The cluster at one moment. A part that could not be read is None, and ``failures`` has the reason."""

    at_s: float
    """Seconds since the first sample."""
    time: str
    """RFC 3339, UTC."""
    took_s: float = 0.0
    failures: tuple[str, ...] = ()
    objects: Mapping[str, ObjectState] | None = None
    """``Kind namespace/name`` -> state."""
    changes: tuple[Change, ...] = ()
    events: Mapping[str, int] | None = None
    """``type reason object`` -> number of occurrences of the Event, until the API server expires it."""
    warnings: Mapping[str, WarningEvent] | None = None
    """uid of the Event -> Event."""
    counts: Mapping[str, int] | None = None
    """Resource -> number of stored objects, from the API server's metrics, which are up to a minute old."""
    nodes: Mapping[str, NodeState] | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields, for one line of ``samples.jsonl``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """An unexpected change, growth or failure."""

    check: str
    """Name of the check, such as ``restarts``."""
    subject: str
    """Name of the object, process or container."""
    text: str
    at_s: float | None = None
    """Seconds since the first sample; None: concerns the whole run."""
