"""Every step that a plan may contain: a small value, safe to apply twice; stopping after any step is safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from kigi.domain.layers import Digest
from kigi.errors import KigiError
from kigi.planning.capture_progress import CaptureProgress
from kigi.planning.prefetch_orders import PrefetchOrders

FinalizerKind = Literal["SystemDeployment", "SystemInstance", "SystemCapture"]


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Put the kind's finalizer on the object, before anything is created or paused for it."""

    namespace: str
    name: str
    kind: FinalizerKind


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Remove the kind's finalizer from the object: nothing of it is left."""

    namespace: str
    name: str
    kind: FinalizerKind


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Server-side apply of a whole object under our field manager."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PatchObject:
    """Merge patch of the object with this uid; one that is gone is success."""

    kind: str
    namespace: str | None
    name: str
    uid: str
    patch: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RestartMachine:
    """End the VirtualMachineInstance ``vmi_uid``; the VM starts a new one from its template.

    At once, or ``gracefully``: the guest is asked to shut down, and has its time for it.
    """

    namespace: str
    name: str
    vmi_uid: str
    gracefully: bool = False


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete one object by kind and name; an object that does not exist is success."""

    kind: str
    name: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ReleaseVolume:
    """Take OVERLAY_FINALIZER from a PersistentVolume: its overlay is gone from the node."""

    name: str


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """One transition for people, on the object that is reconciled."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class OrderPrefetch:
    """Replace the prefetch's orders in this operator's memory, and reconcile the nodes that have another one."""

    namespace: str
    name: str
    orders: PrefetchOrders


@dataclass(frozen=True, slots=True)
class RecordProgress:
    """Write the progress into the capture's status; the steps after it are carried out only if that succeeds."""

    progress: CaptureProgress


@dataclass(frozen=True, slots=True)
class FreezeGuest:
    """Ask the guest agent to flush and freeze the file systems. A guest that does not is paused all the same, unless
    the freeze is ``required``.

    The agent thaws by itself after ``timeout_s``, so a guest does not stay frozen when the operator stops.
    """

    namespace: str
    name: str
    machine: str
    timeout_s: int
    required: bool = False


@dataclass(frozen=True, slots=True)
class PauseMachine:
    """Pause the VM; one that is paused is done."""

    namespace: str
    name: str
    machine: str


@dataclass(frozen=True, slots=True)
class ResumeMachine:
    """Resume the VM, and thaw its file systems if it was frozen; one that runs or does not exist is done."""

    namespace: str
    name: str
    machine: str
    thaw: bool = False


@dataclass(frozen=True, slots=True)
class CreateObject:
    """Create the object; Conflict if one of that name exists."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteCapture:
    """Delete a finished SystemCapture; its result stays."""

    namespace: str
    name: str
    uid: str


CaptureStep = (
    AddFinalizer
    | RemoveFinalizer
    | RecordProgress
    | FreezeGuest
    | PauseMachine
    | ResumeMachine
    | CreateObject
    | DeleteCapture
)


@dataclass(frozen=True, slots=True)
class JoinParts:
    """Makes a layer of its stored parts, in the background."""

    copy: str
    """Its id in the NodeCache."""
    node: str
    repository: str
    digest: Digest
    size_bytes: int
    parts: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step that was carried out; ``finished_at`` by the operator's clock, ``error``: it failed."""

    step: CaptureStep
    finished_at: datetime
    error: KigiError | None = None


Step = (
    AddFinalizer
    | RemoveFinalizer
    | ApplyObject
    | PatchObject
    | RestartMachine
    | DeleteObject
    | ReleaseVolume
    | PauseMachine
    | OrderPrefetch
    | JoinParts
    | EmitEvent
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order of safety, and what is waited for when there are none."""

    steps: tuple[Step, ...] = ()
    waiting_for: str = ""
    retry_after_s: float | None = None
