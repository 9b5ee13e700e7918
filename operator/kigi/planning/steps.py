"""All that may be done. Each step is a small value, safe to apply twice; stopping after any step is safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Put FINALIZER on the SystemDeployment, before anything is made for it."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Take FINALIZER from the SystemDeployment: nothing of it is left."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Server-side apply of a whole object under our field manager."""

    manifest: Mapping[str, Any]


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
    """Delete one object by kind and name; absent is done. ``uid`` guards against a namesake."""

    kind: Literal["VirtualMachine", "PersistentVolumeClaim", "PersistentVolume", "NodeCache", "NetworkPolicy"]
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


Step = AddFinalizer | RemoveFinalizer | ApplyObject | RestartMachine | DeleteObject | ReleaseVolume | EmitEvent


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order of safety, and what is waited for when there are none."""

    steps: tuple[Step, ...] = ()
    waiting_for: str = ""
    retry_after_s: float | None = None
