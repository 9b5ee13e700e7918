"""What a decision needs to know, read once; every value is immutable and made by ``gather``."""

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
    """One node that can hold disks: its room and its cache. Sizes in bytes, cpu in millicores."""

    name: str
    ready: bool = True
    schedulable: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()
    """(key, value, effect)."""
    memory_bytes: int = 0
    """Allocatable memory less what machines of other deployments placed there ask for; this deployment's are not."""
    has_driver: bool = True
    """The node's CSINode lists disk.kigi.dev: its daemon is registered with the kubelet."""
    held: frozenset[Digest] = frozenset()
    fetching: Mapping[Digest, int] = field(default_factory=dict)
    """Layers on their way, with the bytes that are there."""
    refused: Mapping[Digest, tuple[str, str]] = field(default_factory=dict)
    """Layers that the node cannot get: (reason, message)."""
    cache_free_bytes: int = 0
    """Budget less layers that are wanted on the node; what a new chain can take."""
    cache_alive: bool = True
    """Its daemon has written its NodeCache lately."""


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
    """Everything that the decision on one SystemDeployment needs."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    has_finalizer: bool
    spec: SystemDeploymentSpec
    systems: Mapping[str, ResolvedSystem | KigiError]
    """Every state that the spec names, resolved, or why it cannot be."""
    nodes: Mapping[str, NodeState]
    volumes: tuple[VolumeRecord, ...]
    """Volumes of this name, those of a deleted deployment of the same name included; see ``owns``."""
    claims: tuple[ClaimRecord, ...]
    machines: tuple[MachineState, ...]
    kubevirt: KubeVirtState
    now: datetime
    policies: tuple[PolicyRecord, ...] = ()
    changed_by: str = ""
    """Field manager that wrote the spec last."""
    instancetypes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Kind and name of each instancetype that the machines can name -> bytes of the guest's memory."""
    old_status: SystemDeploymentStatus | None = None
    """For lastTransitionTime and timings alone; no decision is read from it."""

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
    """One deployment's layers on one node, as its volumes and prefetches ask."""

    chain: tuple[Layer, ...]
    priority: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything that the decision on one NodeCache needs."""

    name: str
    node_exists: bool
    has_driver: bool
    cache_exists: bool
    wishes: tuple[DesiredChain, ...]
    """Of volumes that are not being deleted, and of prefetches of deployments placed here."""
    terminating: tuple[tuple[str, str], ...]
    """(PersistentVolume, handle) that are being deleted and still carry our finalizer."""
    terminating_in_use: frozenset[str] = frozenset()
    """PersistentVolumes of ``terminating`` whose VirtualMachineInstance still runs."""
    spec_current: bool = False
    """The daemon has acted on the NodeCache's present generation."""
    discard: frozenset[str] = frozenset()
    """Handles that the NodeCache's present spec tells the daemon to forget."""
    volumes: frozenset[str] = frozenset()
    """Handles whose overlays the daemon reports."""
    nameless: frozenset[str] = frozenset()
    """Those of ``volumes`` that no PersistentVolume names and no pod uses: left by a node that was away too long."""
    captures: tuple[CaptureOrder, ...] = ()
    """Copies of overlays that SystemCaptures ask for here."""
    present: NodeCacheSpec | None = None
    """The NodeCache's spec as it is; None: there is no NodeCache."""


@dataclass(frozen=True, slots=True)
class ImageView:
    """Everything that the status of one VMImageNode says."""

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
    """Everything that the status of one SystemNode says."""

    generation: int
    system: ResolvedSystem | KigiError
    parent: ResolvedSystem | None
    """The parent state; None: a root, or unresolved."""
    now: datetime
    old_status: SystemNodeStatus | None = None
    deleting: bool = False
    users: tuple[User, ...] = ()
