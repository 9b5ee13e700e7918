"""What a decision needs to know, read once; every value is immutable and made by ``gather``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kigi.api.deployment import SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.image import VMImageNodeStatus
from kigi.api.node_cache import CaptureOrder, NodeCacheSpec
from kigi.api.system import SystemNodeStatus
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.layers import Chain, Digest, Layer
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
class VolumeState:
    """One PersistentVolume of the deployment: one revision of one disk of a machine."""

    name: str
    handle: str
    instance: int
    machine: str
    revision: int
    node: str
    fingerprint: str
    system: str
    """State that the overlay was made for (label-free text inside the fingerprint annotation)."""
    chain: tuple[Layer, ...]
    deleting: bool = False
    claim_bound: bool = False
    disk: str = ""
    """Empty: the one that the VM boots from."""

    @property
    def slot(self) -> tuple[int, str]:
        """Place of the VM that it is made for."""
        return (self.instance, self.machine)


@dataclass(frozen=True, slots=True)
class ClaimState:
    """One PersistentVolumeClaim of the deployment."""

    name: str
    volume: str
    deleting: bool = False
    bound: bool = False


@dataclass(frozen=True, slots=True)
class MachineState:
    """One VirtualMachine with its VirtualMachineInstance, if it has one."""

    name: str
    instance: int
    machine: str
    owned: bool = True
    """False: a VM of that name exists that this deployment did not make."""
    deleting: bool = False
    claim: str | None = None
    """PVC that the VM's template names for its disk."""
    running: bool = False
    """Its runStrategy is one of those that start it."""
    template_hash: str = ""
    """Annotation with the hash of what this operator last applied."""
    hardware: str = ""
    """``hardware_hash`` of the VM's template."""
    sidecars: str = ""
    """Annotation of the VM's template that makes KubeVirt start hook sidecars."""
    halted_until: datetime | None = None
    """It is kept off until then, so that KubeVirt forgets its last run."""
    vmi_uid: str | None = None
    """uid of the VirtualMachineInstance; None: the VM is off."""
    vmi_claim: str | None = None
    """PVC that the VirtualMachineInstance was started with."""
    vmi_hardware: str = ""
    """``hardware_hash`` that the VirtualMachineInstance was started with; empty: an operator that made none."""
    persistent_state: str = ""
    """Field of its domain that keeps state beside its disks, where no reset reaches it."""
    blocked_by_ghost_record: bool = False
    """KubeVirt refuses the instance, because it remembers the last one of that name."""
    vmi_phase: str = ""
    vmi_ready: bool = False
    paused: bool = False
    """The guest's processors stand still, by somebody's order."""
    vmi_deleting: bool = False
    vmi_node: str | None = None
    printable_status: str = ""
    """KubeVirt's own word, such as Running, Starting, CrashLoopBackOff, ErrorUnschedulable."""
    message: str = ""
    """KubeVirt's own explanation of a failure, if it gives one."""


@dataclass(frozen=True, slots=True)
class PolicyState:
    """One NetworkPolicy with the deployment's labels."""

    name: str
    instance: int
    spec: Mapping[str, Any]
    owned: bool = True
    deleting: bool = False


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
    volumes: tuple[VolumeState, ...]
    claims: tuple[ClaimState, ...]
    machines: tuple[MachineState, ...]
    kubevirt: KubeVirtState
    now: datetime
    policies: tuple[PolicyState, ...] = ()
    changed_by: str = ""
    """Field manager that wrote the spec last."""
    instancetypes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Kind and name of each instancetype that the machines can name -> bytes of the guest's memory."""
    old_status: SystemDeploymentStatus | None = None
    """For lastTransitionTime and timings alone; no decision is read from it."""


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
