"""Records: API objects as the mirror stores them. Parsed once when they arrive, small and immutable.

``domain/observed.py`` has the records that planning uses as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kigi.api.capture import SystemCaptureSpec, SystemCaptureStatus
from kigi.api.deployment import SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.image import VMImageNodeStatus
from kigi.api.node_cache import CaptureReport, NodeCacheSpec
from kigi.api.prefetch import SystemPrefetchSpec, SystemPrefetchStatus
from kigi.api.system import SystemNodeStatus
from kigi.domain import names
from kigi.domain.images import Image
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.layers import Digest
from kigi.domain.observed import ClaimRecord, MachineRecord, Meta, PolicyRecord, VmiRecord, VolumeRecord
from kigi.domain.systems import System
from kigi.errors import SpecInvalid

ANNOTATION_AVAILABLE = f"{names.GROUP}/volume-available"
"""On a claim: uid of the available volume that the claim was touched for; see reconcilers/claims."""

CACHE_SILENT_AFTER = timedelta(minutes=2)
"""Age of the last report at which a daemon counts as silent: four missed heartbeats of 30 s."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A VMImageNode."""

    meta: Meta
    image: Image | SpecInvalid
    status: VMImageNodeStatus | None


@dataclass(frozen=True, slots=True)
class SystemRecord:
    """A SystemNode."""

    meta: Meta
    system: System | SpecInvalid
    status: SystemNodeStatus | None


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A SystemDeployment."""

    meta: Meta
    spec: SystemDeploymentSpec | SpecInvalid
    status: SystemDeploymentStatus | None
    changed_by: str = field(default="", compare=False)
    """Field manager that wrote the spec last."""


@dataclass(frozen=True, slots=True)
class CaptureRecord:
    """A SystemCapture."""

    meta: Meta
    spec: SystemCaptureSpec | SpecInvalid
    status: SystemCaptureStatus | None


@dataclass(frozen=True, slots=True)
class PrefetchRecord:
    """A SystemPrefetch."""

    meta: Meta
    spec: SystemPrefetchSpec | SpecInvalid
    status: SystemPrefetchStatus | None


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A Node."""

    meta: Meta
    ready: bool
    schedulable: bool
    labels: Mapping[str, str]
    taints: tuple[tuple[str, str, str], ...]
    """(key, value, effect)."""
    memory_bytes: int
    """Allocatable memory."""


@dataclass(frozen=True, slots=True)
class CsiNodeRecord:
    """A CSINode. ``has_driver``: Kigi's daemon is registered with the node's kubelet."""

    meta: Meta
    has_driver: bool


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A NodeCache."""

    meta: Meta
    spec: NodeCacheSpec | None
    wanted_bytes: int
    """Sum of the layers in the spec."""
    observed_generation: int
    held: frozenset[Digest]
    fetching: Mapping[Digest, int]
    """Layers that are being fetched, with the bytes that have arrived."""
    refused: Mapping[Digest, tuple[str, str]]
    """Layers that the node cannot get: (reason, message)."""
    volumes: frozenset[str]
    """Handles of the overlays on the node."""
    mounted: frozenset[str]
    """Handles of ``volumes`` that a pod uses."""
    budget_bytes: int
    heartbeat: datetime | None
    captures: Mapping[str, CaptureReport]
    """Frozen copies of overlays, by id."""


@dataclass(frozen=True, slots=True)
class KubeVirtRecord:
    """A KubeVirt installation, with the fields that decide which hook it offers."""

    meta: Meta
    body: Mapping[str, Any] = field(compare=False)
    state: KubeVirtState


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """A KubeVirt Plugin."""

    meta: Meta
    intact: bool
    """The spec is the one that Kigi applies."""


@dataclass(frozen=True, slots=True)
class InstancetypeRecord:
    """A VirtualMachineInstancetype or VirtualMachineClusterInstancetype."""

    meta: Meta
    memory_bytes: int
    """Guest memory."""


Record = (
    ImageRecord
    | SystemRecord
    | DeploymentRecord
    | CaptureRecord
    | PrefetchRecord
    | NodeRecord
    | CsiNodeRecord
    | CacheRecord
    | VolumeRecord
    | ClaimRecord
    | MachineRecord
    | VmiRecord
    | PolicyRecord
    | KubeVirtRecord
    | PluginRecord
    | InstancetypeRecord
)
