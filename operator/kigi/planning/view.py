"""Views: everything that one decision reads. ``gather`` builds them once per reconcile; they are immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.grant import TreeGrantStatus
from kigi.api.image import VMImageNodeStatus
from kigi.api.instance import SystemInstanceSpec, SystemInstanceStatus
from kigi.api.node_cache import CaptureOrder, NodeCacheSpec, Purpose
from kigi.api.system import SystemNodeStatus
from kigi.domain import names
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.grants import Grant, GrantTarget
from kigi.domain.images import Image
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.layers import Chain, Digest, Layer
from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, Slot, VmiRecord, VolumeRecord
from kigi.domain.resets import ResetRequest
from kigi.domain.systems import ResolvedSystem
from kigi.domain.usage import User
from kigi.errors import KigiError
from kigi.planning.quotas import Allowance
from kigi.planning.uploads import Uploads


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
    """Allocatable memory minus that of other instances' machines; this instance's are not subtracted."""
    has_driver: bool = True
    """The node's CSINode lists disk.kigi.dev: the daemon is registered with the kubelet."""
    held: frozenset[Digest] = frozenset()
    fetching: Mapping[Digest, int] = field(default_factory=dict)
    """Layers that the node fetches or has queued -> bytes fetched so far."""
    refused: Mapping[Digest, tuple[str, str]] = field(default_factory=dict)
    """Layers that the node cannot fetch -> (reason, message)."""
    requested: frozenset[Digest] = frozenset()
    """Layers that other instances are about to need on the node; ``cache_free_bytes`` does not have their bytes."""
    cache_free_bytes: int = 0
    """Budget minus the layers that are wanted on the node: free space for new chains."""
    cache_alive: bool = True
    """The daemon was heard lately."""
    skew: str = ""
    """Why the daemon does not understand the operator; empty: it does."""
    listed: frozenset[Digest] | None = None
    """Layers in the NodeCache, if some did not fit into it; None: all wanted layers are in it."""
    exists: bool = True
    """False: the Node was deleted, and its NodeCache still exists: it may come back with its disks."""
    filling: frozenset[str] = frozenset()
    """Handles of overlays that fill its disk, whose VMs are paused."""
    cached: frozenset[Digest] = field(init=False)
    """Layers that the node holds or fetches."""
    refusal: str | None = field(init=False)
    """Why it can take no disk now, whatever the rules of a placement; None: it can."""

    def __post_init__(self) -> None:
        """Derives what each placement asks of every node."""
        object.__setattr__(self, "cached", self.held.union(self.fetching) if self.fetching else self.held)
        object.__setattr__(self, "refusal", self._refusal())

    def _refusal(self) -> str | None:
        if not self.exists:
            return "deleted"
        if not self.ready:
            return "not ready"
        if not self.schedulable:
            return "cordoned"
        if not self.has_driver:
            return "without the disk.kigi.dev driver"
        if not self.cache_alive:
            return "whose cache daemon is silent"
        return "whose cache daemon does not understand the operator's protocol" if self.skew else None


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
class InstanceObjects:
    """A SystemInstance and what it has created: enough to delete it, even without a readable spec."""

    namespace: str
    deployment: str
    deployment_uid: str
    """Empty: there is no such SystemDeployment."""
    name: str
    """Name of the instance within its deployment."""
    uid: str
    """uid of the SystemInstance."""
    has_finalizer: bool
    volumes: tuple[VolumeRecord, ...]
    """Volumes of this name, those of a deleted instance of the same name included; see ``owns``."""
    claims: tuple[ClaimRecord, ...]
    machines: tuple[MachineState, ...]
    policies: tuple[PolicyRecord, ...]

    @property
    def object_name(self) -> str:
        """Name of the SystemInstance."""
        return names.instance_object(self.deployment, self.name)

    @property
    def awaits_instance(self) -> bool:
        """Whether all of it is from before there were SystemInstances, and of this very deployment.

        A SystemInstance of the name takes it over.
        """
        owners = {one.owner_uid for one in self.volumes} | {one.owner_uid for one in self.policies}
        owners |= {one.vm.owner_uid for one in self.machines}
        return self.deployment_uid in owners - {""} and owners <= {self.deployment_uid, ""}

    def owns(self, record: VolumeRecord | MachineRecord | PolicyRecord) -> bool:
        """Whether this instance created the object, and not another one of the same name or a user.

        An object from before there were SystemInstances has the uid of the deployment.
        """
        return record.owner_uid != "" and record.owner_uid in (self.uid, self.deployment_uid)

    def fingerprint_of(self, volume: VolumeRecord) -> Fingerprint | None:
        """State that the volume's overlay was created for; None asks for a new disk.

        A force-deleted instance of the same name may have left the volume behind. Its fingerprint does not count,
        so that this instance never adopts the old overlay; its revision does, so that no name is used twice.
        """
        return volume.fingerprint if self.owns(volume) else None


@dataclass(frozen=True, slots=True)
class InstanceView(InstanceObjects):
    """Input of the plan of one SystemInstance that its deployment selects."""

    generation: int
    deployment_generation: int
    settings: SystemInstanceSpec
    """What differs from ``spec``."""
    spec: SystemDeploymentSpec
    systems: Mapping[str, ResolvedSystem | KigiError]
    """Every state that spec and settings name, or the error of resolving it."""
    nodes: Mapping[str, NodeState]
    """All nodes; what other instances use or are about to use of them is not free."""
    kubevirt: KubeVirtState
    now: datetime
    load: Mapping[str, int] = field(default_factory=dict)
    """Other instances of the deployment on each node."""
    resets: tuple[ResetRequest, ...] = ()
    """Accepted requests that concern the instance; one that is being deleted asks for nothing."""
    changed_by: str = ""
    """Field manager that wrote the settings or the deployment's spec last, for the history only."""
    instancetypes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(kind, name) of each instancetype that machines can name -> guest memory in bytes."""
    allowance: Allowance = field(default_factory=Allowance)
    """What the SystemQuotas of the namespace leave."""
    old_status: SystemInstanceStatus | None = None
    """For transition times, history and messages of the next status; the plan does not read it."""
    written_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes that guests have written, by PersistentVolume, as far as daemons report them; for the status only."""

    @property
    def system_name(self) -> str:
        """State of the instance."""
        return (self.settings.system_ref or self.spec.system_ref).tree_name


@dataclass(frozen=True, slots=True)
class DesiredChain:
    """A chain that a node should hold, for a volume or a prefetch."""

    chain: tuple[Layer, ...]
    purpose: Purpose
    pinned: bool = False
    namespace: str = ""
    """Namespace of the volume's deployment, or of the prefetch."""


@dataclass(frozen=True, slots=True)
class RunningMachine:
    """A VMI that runs."""

    namespace: str
    name: str
    machine: str


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
    """Handles in the current NodeCache's ``spec.discardVolumes``."""
    volumes: frozenset[str] = frozenset()
    """Handles of overlays that the daemon reports."""
    without_volume: frozenset[str] = frozenset()
    """Handles in ``volumes`` without a PersistentVolume and without a pod: left over on a node that was away."""
    keeps_prefetched: bool = False
    """Prefetched layers of the NodeCache stay: a prefetch lets the node wait for its turn, or is not planned yet."""
    captures: tuple[CaptureOrder, ...] = ()
    """Copies of overlays that SystemCaptures request on this node."""
    uploads: Uploads = field(default_factory=Uploads)
    """Reports of the copies' layers, and the credentials to store them."""
    refused: frozenset[Digest] = frozenset()
    """Layers that the daemon cannot get as the NodeCache declares them."""
    grace_left_s: float = 0.0
    """Seconds for which a deleted Node may still come back with its disks."""
    protocols: tuple[int, ...] = ()
    """Protocols that the daemon understands; empty: it has not reported them."""
    operator_version: str | None = None
    """Version of Kigi that the operator runs, to be shown to the daemon."""
    filling: tuple[RunningMachine, ...] = ()
    """VMs that run and write to overlays that fill the node's disk."""
    present: NodeCacheSpec | None = None
    """Current spec of the NodeCache; None: there is no NodeCache."""


@dataclass(frozen=True, slots=True)
class ImageView:
    """Input of the status of one VMImageNode."""

    generation: int
    chain: Chain | KigiError
    children: int
    cached_nodes: int
    image: Image | None
    """The image itself, also where its chain is not complete; None if its spec is invalid."""
    held: bool
    """Whether a node holds its layer: the node has then verified it."""
    now: datetime
    old_status: VMImageNodeStatus | None = None
    deleting: bool = False
    users: tuple[User, ...] = ()
    own_layers: int = 0
    """Number of the chain's top layers that are of the image's namespace; 0: all."""


@dataclass(frozen=True, slots=True)
class GrantView:
    """Input of the status of one TreeGrant."""

    generation: int
    grant: Grant
    missing: tuple[GrantTarget, ...]
    """Targets that do not exist."""
    namespace_count: int
    """Number of other namespaces that the selector matches."""
    now: datetime
    old_status: TreeGrantStatus | None = None


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
