"""Observed objects of a deployment, parsed once when they arrive; the mirror stores them and views embed them.

They are plain values without I/O, so that planning can read them without importing the mirror.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kigi.domain.fingerprint import Fingerprint
from kigi.domain.layers import Chain
from kigi.domain.names import claim_name

Slot = tuple[str, str]
"""(instance, machine): the place of one VM in a deployment."""


@dataclass(frozen=True, slots=True)
class Meta:
    """The metadata that Kigi reads of every kind."""

    namespace: str | None
    name: str
    uid: str
    version: int
    """resourceVersion as a number: of two versions of one object the greater is newer (Kubernetes KEP-5504)."""
    generation: int = 0
    deleting: bool = False
    finalizers: tuple[str, ...] = ()
    created: datetime | None = field(default=None, compare=False)
    """metadata.creationTimestamp, by the API server's clock."""


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A PersistentVolume with Kigi's labels: one revision of one disk of a machine."""

    meta: Meta
    owner_uid: str
    """uid of the SystemInstance that created it, or of the SystemDeployment before there were instances."""
    deployment: tuple[str, str]
    """(namespace, name) of its SystemDeployment."""
    instance: str
    machine: str
    disk: str
    """Name of an extra disk; empty for the boot disk."""
    revision: int
    node: str
    """Node that the volume's node affinity names; empty if it names none."""
    handle: str
    fingerprint: Fingerprint | None
    """State that the overlay was created for; None if the annotation is missing or damaged."""
    chain: Chain
    claim_bound: bool
    """The volume's claimRef has a uid: it can never be bound to another claim object."""
    is_available: bool
    """Kubernetes' volume controller has processed the volume, and it is not bound yet."""

    @property
    def slot(self) -> Slot:
        """Slot of the VM that the disk belongs to."""
        return (self.instance, self.machine)

    @property
    def claim(self) -> str:
        """Name of the claim that the volume is bound to."""
        return claim_name(self.deployment[1], self.instance, self.machine, self.revision, self.disk)

    @property
    def system(self) -> str:
        """Name of the state that the overlay was created for; empty if unknown."""
        return self.fingerprint.system if self.fingerprint is not None else ""


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A PersistentVolumeClaim with Kigi's labels."""

    meta: Meta
    deployment: tuple[str, str]
    instance: str
    volume: str
    """Name of the volume that the claim requests."""
    bound: bool
    touched_for: str
    """uid of the volume that was available when the claim was touched; see reconcilers/claims."""


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """A VirtualMachine with Kigi's labels."""

    meta: Meta
    owner_uid: str
    """As ``VolumeRecord.owner_uid``; empty for a VM that Kigi did not create."""
    deployment: tuple[str, str]
    instance: str
    machine: str
    claim: str | None
    """Claim that the template names for the boot disk."""
    running: bool
    """runStrategy is one of those that start the VM."""
    template_hash: str
    """Hash of the template that the operator applied last."""
    hardware: str
    """``hardware_hash`` of the template."""
    sidecars: str
    """Template annotation that makes KubeVirt start hook sidecars."""
    halted_until: datetime | None
    """Time before which the VM must stay off, so that KubeVirt drops its ghost record."""
    memory_bytes: int | None
    """Memory that the VM takes on its node; None if an instancetype defines it."""
    printable_status: str
    """KubeVirt's summary, such as Running, Starting, CrashLoopBackOff, ErrorUnschedulable."""
    message: str
    """KubeVirt's explanation of a failure; empty if there is none."""

    @property
    def slot(self) -> Slot:
        """Slot of the VM."""
        return (self.instance, self.machine)


@dataclass(frozen=True, slots=True)
class VmiRecord:
    """A VirtualMachineInstance with Kigi's labels."""

    meta: Meta
    deployment: tuple[str, str]
    instance: str
    claim: str | None
    """Claim of the boot disk that it was started with."""
    hardware: str
    """``hardware_hash`` that it was started with; empty if an older operator created its VM."""
    phase: str
    ready: bool
    paused: bool
    persistent_state: str
    """Domain field (TPM or EFI) whose state is stored outside of the disks, where no reset reaches it; empty: none."""
    agent: bool
    """The guest agent answers."""
    blocked_by_ghost_record: bool
    """virt-handler still has a record of the previous VMI of that name, and refuses this one."""
    node: str | None
    message: str
    """Why the VMI's pod has no node, in the scheduler's words; or what to do about a disk that failed."""


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A NetworkPolicy with Kigi's labels."""

    meta: Meta
    owner_uid: str
    deployment: tuple[str, str]
    instance: str
    spec: Mapping[str, Any]
