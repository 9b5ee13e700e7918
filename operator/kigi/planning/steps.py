"""Steps: small values, each safe to apply twice. Every prefix of a plan's steps is a safe place to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Add FINALIZER to the SystemDeployment, before anything is created for it."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Remove FINALIZER from the SystemDeployment, after everything that was created for it is gone."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class ApplyObject:
    """Server-side apply of a whole object with Kigi's field manager."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RestartMachine:
    """Delete the VirtualMachineInstance ``vmi_uid``; KubeVirt starts the next one from the VM's template.

    ``gracefully``: the guest is asked to shut down, and has its termination grace period. Otherwise it is killed.
    """

    namespace: str
    name: str
    vmi_uid: str
    gracefully: bool = False


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete one object by kind and name; a missing object is success."""

    kind: Literal["VirtualMachine", "PersistentVolumeClaim", "PersistentVolume", "NodeCache", "NetworkPolicy"]
    name: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ReleaseVolume:
    """Remove OVERLAY_FINALIZER from a PersistentVolume, after its overlay is gone from the node."""

    name: str


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Event about the object that is reconciled."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Step = AddFinalizer | RemoveFinalizer | ApplyObject | RestartMachine | DeleteObject | ReleaseVolume | EmitEvent


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in their safe order, and what the plan waits for if there are none."""

    steps: tuple[Step, ...] = ()
    waiting_for: str = ""
    retry_after_s: float | None = None
