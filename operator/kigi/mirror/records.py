"""API objects as Kigi keeps them in memory: parsed once when they arrive, small, immutable."""

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
"""On a claim: uid of its volume, written when that was available and the claim not bound; see reconcilers/claims."""

CACHE_SILENT_AFTER = timedelta(minutes=2)
"""A daemon writes its NodeCache at least every 30 s; four in a row missed, and it is taken for dead."""


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
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class CsiNodeRecord:
    """A CSINode: whether our daemon is registered with that node's kubelet."""

    meta: Meta
    has_driver: bool


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A NodeCache."""

    meta: Meta
    spec: NodeCacheSpec | None
    wanted_bytes: int
    observed_generation: int
    held: frozenset[Digest]
    fetching: Mapping[Digest, int]
    refused: Mapping[Digest, tuple[str, str]]
    volumes: frozenset[str]
    mounted: frozenset[str]
    """Those of ``volumes`` that a pod uses."""
    budget_bytes: int
    heartbeat: datetime | None
    captures: Mapping[str, CaptureReport]
    """Frozen copies of overlays, by id."""


@dataclass(frozen=True, slots=True)
class KubeVirtRecord:
    """A KubeVirt installation, as the few fields that tell its hooks."""

    meta: Meta
    body: Mapping[str, Any] = field(compare=False)
    state: KubeVirtState


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """A KubeVirt Plugin."""

    meta: Meta
    intact: bool
    """Its spec is that of ours."""


@dataclass(frozen=True, slots=True)
class InstancetypeRecord:
    """A KubeVirt instancetype, of a namespace or of the cluster."""

    meta: Meta
    memory_bytes: int
    """Memory of the guest."""


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
