"""Objects that are being deleted and wait for Kigi's operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kigi.domain import kinds
from kigi.domain.names import (
    CAPTURE_FINALIZER,
    DEPLOYMENT_FINALIZER,
    IN_USE_FINALIZER,
    INSTANCE_FINALIZER,
    OVERLAY_FINALIZER,
)

FINALIZERS = frozenset(
    {CAPTURE_FINALIZER, DEPLOYMENT_FINALIZER, IN_USE_FINALIZER, INSTANCE_FINALIZER, OVERLAY_FINALIZER}
)
"""Every finalizer of Kigi."""


@dataclass(frozen=True, slots=True)
class Hanging:
    """One object, with what nobody does for it any more."""

    kind: str
    namespace: str | None
    name: str
    uid: str
    ours: tuple[str, ...]
    others: tuple[str, ...]
    """Finalizers of other controllers, which stay."""
    left_behind: str
    """What remains, and where, once the object is freed; empty if nothing does."""


def hanging_object(body: Mapping[str, Any]) -> Hanging | None:
    """The object if it is being deleted and has a finalizer of Kigi; else None."""
    meta = body["metadata"]
    finalizers = tuple(meta.get("finalizers") or ())
    ours = tuple(name for name in finalizers if name in FINALIZERS)
    if not meta.get("deletionTimestamp") or not ours:
        return None
    others = tuple(name for name in finalizers if name not in FINALIZERS)
    left = _left_behind(body)
    return Hanging(body["kind"], meta.get("namespace"), meta["name"], meta["uid"], ours, others, left)


def _left_behind(body: Mapping[str, Any]) -> str:
    match body["kind"]:
        case kinds.VOLUME:
            csi = (body.get("spec") or {}).get("csi") or {}
            node = (csi.get("volumeAttributes") or {}).get("node", "its node")
            return f"the overlay {csi.get('volumeHandle')} in /var/lib/kigi/volumes on {node}"
        case kinds.INSTANCE:
            return "its PersistentVolumes; Kubernetes deletes its VMs and claims"
        case kinds.CAPTURE:
            return "VMs that it has paused (virtctl unpause vmi), and copies in /var/lib/kigi/captures"
        case _:
            return ""
