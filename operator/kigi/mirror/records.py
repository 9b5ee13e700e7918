"""Records: API objects as the mirror stores them. Parsed once when they arrive, small and immutable.

``domain/observed.py`` has the records that planning uses as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kigi.api.capture import SystemCaptureSpec, SystemCaptureStatus
from kigi.api.deployment import SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.grant import TreeGrantStatus
from kigi.api.image import VMImageNodeStatus
from kigi.api.instance import SystemInstanceSpec, SystemInstanceStatus
from kigi.api.layer_repository import LayerRepositorySpec, LayerRepositoryStatus
from kigi.api.node_cache import CaptureReport, NodeCacheSpec
from kigi.api.prefetch import SystemPrefetchSpec, SystemPrefetchStatus
from kigi.api.quota import SystemQuotaSpec, SystemQuotaStatus
from kigi.api.reset import SystemResetStatus
from kigi.api.system import SystemNodeStatus
from kigi.domain import names
from kigi.domain.grants import Grant
from kigi.domain.images import Image
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.layers import Digest
from kigi.domain.observed import ClaimRecord, MachineRecord, Meta, PolicyRecord, VmiRecord, VolumeRecord
from kigi.domain.resets import ResetRequest
from kigi.domain.systems import System
from kigi.errors import SpecInvalid, StatusInvalid
from kigi.planning.capture_progress import CaptureProgress

_MISDECLARED = frozenset({"LayerRefused", "LayerCorrupt", "LayerNotInRepository", "RepositoryUnknown", "AccessDenied"})
ANNOTATION_AVAILABLE = f"{names.GROUP}/volume-available"
"""On a claim: uid of the available volume that the claim was touched for; see reconcilers/claims."""


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
class GrantRecord:
    """A TreeGrant."""

    meta: Meta
    grant: Grant | SpecInvalid
    status: TreeGrantStatus | None

    @property
    def in_force(self) -> Grant | None:
        """The grant; None if its spec is invalid or it is being deleted."""
        return self.grant if isinstance(self.grant, Grant) and not self.meta.deleting else None


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A SystemDeployment."""

    meta: Meta
    spec: SystemDeploymentSpec | SpecInvalid
    status: SystemDeploymentStatus | None
    changed_by: str = field(default="", compare=False)
    """Field manager that wrote the spec last."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """A SystemInstance."""

    meta: Meta
    deployment: tuple[str, str]
    """(namespace, name) of the SystemDeployment that ``spec`` names; labels and owner references decide nothing."""
    name: str
    """Name within the deployment."""
    owner_uids: tuple[str, ...]
    """uids of the SystemDeployments among its owners."""
    spec: SystemInstanceSpec | SpecInvalid
    status: SystemInstanceStatus | None
    changed_by: str = field(default="", compare=False)
    """Field manager that wrote the spec last."""


@dataclass(frozen=True, slots=True)
class CaptureRecord:
    """A SystemCapture."""

    meta: Meta
    spec: SystemCaptureSpec | SpecInvalid
    status: SystemCaptureStatus | None
    """Only its conditions, if ``progress`` is an error."""
    progress: CaptureProgress | StatusInvalid
    """What decisions read of the status; an error if it cannot be read."""
    instance_name: str = ""
    """Name of the SystemInstance that ``spec`` names, even if the rest of it does not validate."""


@dataclass(frozen=True, slots=True)
class ResetRecord:
    """A SystemReset."""

    meta: Meta
    deployment: tuple[str, str]
    """(namespace, name) of its SystemDeployment."""
    request: ResetRequest | SpecInvalid
    ttl_s: int | None
    """Seconds after its end at which it is deleted; None: it stays."""
    status: SystemResetStatus | None

    @property
    def is_finished(self) -> bool:
        """Its status says that it has ended; a report, see SystemResetStatus."""
        return self.status is not None and self.status.completion_time is not None


@dataclass(frozen=True, slots=True)
class PrefetchRecord:
    """A SystemPrefetch."""

    meta: Meta
    spec: SystemPrefetchSpec | SpecInvalid
    status: SystemPrefetchStatus | None


@dataclass(frozen=True, slots=True)
class RepositoryRecord:
    """A LayerRepository."""

    meta: Meta
    spec: LayerRepositorySpec | SpecInvalid
    status: LayerRepositoryStatus | None


@dataclass(frozen=True, slots=True)
class QuotaRecord:
    """A SystemQuota."""

    meta: Meta
    spec: SystemQuotaSpec | SpecInvalid
    status: SystemQuotaStatus | None


@dataclass(frozen=True, slots=True)
class NamespaceRecord:
    """A Namespace. Its labels decide which objects of other namespaces and of the cluster its objects may use."""

    meta: Meta
    labels: Mapping[str, str]


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
    """What layers may use."""
    usable_bytes: int
    """The same, or less if other files have taken it."""
    captures: Mapping[str, CaptureReport]
    """Frozen copies of overlays, by id."""
    protocols: tuple[int, ...] = ()
    """Protocols that the daemon understands; empty: it has not reported them."""
    filling: frozenset[str] = frozenset()
    """Handles of overlays that fill the node's disk."""
    overlay_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the overlays, by namespace."""
    disk_bytes: int = 0
    """Space of layers and overlays on the node, and free space."""
    written_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes that guests have written, by the handle of the overlay; rounded."""

    @property
    def misdeclared(self) -> frozenset[Digest]:
        """Layers that the node may get if another object declares them otherwise."""
        return frozenset(digest for digest, (reason, _) in self.refused.items() if reason in _MISDECLARED)


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
    | GrantRecord
    | DeploymentRecord
    | InstanceRecord
    | ResetRecord
    | CaptureRecord
    | PrefetchRecord
    | RepositoryRecord
    | QuotaRecord
    | NamespaceRecord
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
