"""Views: everything that one decision reads. ``gather`` builds them once per reconcile; they are immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kigi.api.deployment import SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.image import VMImageNodeStatus
from kigi.api.node_cache import CaptureOrder, NodeCacheSpec
from kigi.api.system import SystemNodeStatus
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.layers import Chain, Digest, Layer
from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, Slot, VmiRecord, VolumeRecord
from kigi.domain.systems import ResolvedSystem
from kigi.domain.usage import User
from kigi.errors import KigiError


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node that can hold disks: its free memory and its cache. Sizes in bytes."""

    name: str
    ready: bool = True
    schedulable: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()
    """(key, value, effect)."""
    memory_bytes: int = 0
    """Allocatable memory minus that of other deployments' machines; this deployment's are not subtracted."""
    has_driver: bool = True
    """The node's CSINode lists disk.kigi.dev: the daemon is registered with the kubelet."""
    held: frozenset[Digest] = frozenset()
    fetching: Mapping[Digest, int] = field(default_factory=dict)
    """Layers that the node fetches or has queued -> bytes fetched so far."""
    refused: Mapping[Digest, tuple[str, str]] = field(default_factory=dict)
    """Layers that the node cannot fetch -> (reason, message)."""
    cache_free_bytes: int = 0
    """Budget minus the layers that are wanted on the node: free space for new chains."""
    cache_alive: bool = True
    """The daemon has written the NodeCache recently."""


@dataclass(frozen=True, slots=True)
class MachineState:
    """A VirtualMachine and its VirtualMachineInstance."""

    vm: MachineRecord
    vmi: VmiRecord | None = None
    """None: the VM is off."""

    @property
    def slot(self) -> Slot:
        """Slot of the VM in its deployment."""
        return self.vm.slot

    @property
    def vmi_claim(self) -> str | None:
        """Claim of the boot disk that the VMI was started with; None: the VM is off."""
        return self.vmi.claim if self.vmi is not None else None

    @property
    def vmi_phase(self) -> str:
        """KubeVirt's phase of the VMI; empty: the VM is off."""
        return self.vmi.phase if self.vmi is not None else ""

    @property
    def vmi_deleting(self) -> bool:
        """The VMI is terminating."""
        return self.vmi is not None and self.vmi.meta.deleting

    @property
    def paused(self) -> bool:
        """A user or a capture has paused the VMI."""
        return self.vmi is not None and self.vmi.paused

    @property
    def persistent_state(self) -> str:
        """Domain field whose state is stored outside of the disks; empty: none."""
        return self.vmi.persistent_state if self.vmi is not None else ""

    @property
    def blocked_by_ghost_record(self) -> bool:
        """KubeVirt refuses the VMI, because it still has a record of the previous one of that name."""
        return self.vmi is not None and self.vmi.blocked_by_ghost_record

    @property
    def message(self) -> str:
        """KubeVirt's explanation of a failure; empty if there is none."""
        return (self.vmi.message if self.vmi is not None else "") or self.vm.message


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """Input of the plan of one SystemDeployment."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    has_finalizer: bool
    spec: SystemDeploymentSpec
    systems: Mapping[str, ResolvedSystem | KigiError]
    """Every state that the spec names, or the error of resolving it."""
    nodes: Mapping[str, NodeState]
    volumes: tuple[VolumeRecord, ...]
    """Volumes of this name, those of a deleted deployment of the same name included; see ``owns``."""
    claims: tuple[ClaimRecord, ...]
    machines: tuple[MachineState, ...]
    kubevirt: KubeVirtState
    now: datetime
    policies: tuple[PolicyRecord, ...] = ()
    changed_by: str = ""
    """Field manager that wrote the spec last, for the history only."""
    instancetypes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(kind, name) of each instancetype that machines can name -> guest memory in bytes."""
    old_status: SystemDeploymentStatus | None = None
    """For transition times, timings, history and messages of the next status; the plan does not read it."""

    def owns(self, record: VolumeRecord | MachineRecord | PolicyRecord) -> bool:
        """Whether this deployment created the object, and not another one of the same name or a user."""
        return record.owner_uid == self.uid

    def fingerprint_of(self, volume: VolumeRecord) -> Fingerprint | None:
        """State that the volume's overlay was created for; None asks for a new disk.

        A force-deleted deployment of the same name may have left the volume behind. Its fingerprint does not count,
        so that this deployment never adopts the old overlay; its revision does, so that no name is used twice.
        """
        return volume.fingerprint if self.owns(volume) else None


@dataclass(frozen=True, slots=True)
class DesiredChain:
    """A chain that a node should hold, for a volume or a prefetch."""

    chain: tuple[Layer, ...]
    priority: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class NodeView:
    """Input of the plan of one NodeCache."""

    name: str
    node_exists: bool
    has_driver: bool
    cache_exists: bool
    desired: tuple[DesiredChain, ...]
    """Chains of volumes that are not terminating, and of prefetches."""
    terminating: tuple[tuple[str, str], ...]
    """(name, handle) of PersistentVolumes that are terminating and still have Kigi's finalizer."""
    terminating_in_use: frozenset[str] = frozenset()
    """Names of ``terminating`` volumes whose VMI still runs."""
    spec_current: bool = False
    """The daemon has acted on the NodeCache's current generation."""
    discard: frozenset[str] = frozenset()
    """Handles in the current NodeCache's ``spec.discard``."""
    volumes: frozenset[str] = frozenset()
    """Handles of overlays that the daemon reports."""
    without_volume: frozenset[str] = frozenset()
    """Handles in ``volumes`` without a PersistentVolume and without a pod: left over on a node that was away."""
    keeps_prefetched: bool = False
    """Prefetched layers of the NodeCache stay: a prefetch lets the node wait for its turn, or is not planned yet."""
    captures: tuple[CaptureOrder, ...] = ()
    """Copies of overlays that SystemCaptures request on this node."""
    present: NodeCacheSpec | None = None
    """Current spec of the NodeCache; None: there is no NodeCache."""


@dataclass(frozen=True, slots=True)
class ImageView:
    """Input of the status of one VMImageNode."""

    generation: int
    chain: Chain | KigiError
    children: int
    cached_on: int
    now: datetime
    old_status: VMImageNodeStatus | None = None
    deleting: bool = False
    users: tuple[User, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemView:
    """Input of the status of one SystemNode."""

    generation: int
    system: ResolvedSystem | KigiError
    parent: ResolvedSystem | None
    """The parent state; None: a root, or the parent cannot be resolved."""
    now: datetime
    old_status: SystemNodeStatus | None = None
    deleting: bool = False
    users: tuple[User, ...] = ()
