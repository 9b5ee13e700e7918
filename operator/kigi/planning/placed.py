"""Targets with their disks: which revision on which node, under which names."""

from __future__ import annotations

from dataclasses import dataclass

from kigi.domain.fingerprint import Fingerprint
from kigi.domain.layers import Chain
from kigi.domain.names import claim_name, instance_object, volume_name
from kigi.domain.observed import Slot
from kigi.planning.targets import MachineTarget
from kigi.planning.view import InstanceView, MachineState


@dataclass(frozen=True, slots=True)
class Owner:
    """The SystemInstance that objects belong to."""

    namespace: str
    deployment: str
    instance: str
    """Name within the deployment."""
    uid: str

    @property
    def object_name(self) -> str:
        """Name of the SystemInstance."""
        return instance_object(self.deployment, self.instance)


@dataclass(frozen=True, slots=True)
class DiskTarget:
    """One disk of a placed machine, with the names of its volume and claim."""

    name: str
    """Empty for the boot disk."""
    chain: Chain
    chain_text: str
    """The chain as a volume attribute."""
    bus: str
    """Empty for the root disk, whose settings define it."""
    claim: str
    volume: str
    boot_order: int | None = None


@dataclass(frozen=True, slots=True)
class PlacedTarget:
    """A machine target whose disks have a revision and a node."""

    target: MachineTarget
    revision: int
    node: str
    fingerprint: Fingerprint
    disks: tuple[DiskTarget, ...]
    """The boot disk, then the extra disks by name."""
    is_cached: bool
    """The node holds every layer of every disk."""
    is_new: bool = False
    """The boot disk's PersistentVolume does not exist yet: this plan creates it."""
    why: str = ""
    """Reason for the node; empty if this plan did not choose it."""
    observed: MachineState | None = None
    """The VM in this slot; None: it does not exist."""
    fills_disk: bool = False
    """One of its disks fills its node's, so that its VM is paused."""
    waits_for: tuple[str, ...] = ()
    """Machines of its ``startAfter`` that are not ready yet."""

    @property
    def slot(self) -> Slot:
        """Slot of the VM in its deployment."""
        return self.target.slot

    @property
    def claim(self) -> str:
        """Claim of the boot disk."""
        return self.disks[0].claim


@dataclass(frozen=True, slots=True)
class Situation:
    """Input of every planning stage."""

    view: InstanceView
    owner: Owner
    targets: tuple[MachineTarget, ...]
    """Every VM that should exist."""
    placed: tuple[PlacedTarget, ...]
    """Those of ``targets`` that have a node."""
    hook_image: str = ""


def disk_targets(owner: Owner, target: MachineTarget, revision: int) -> tuple[DiskTarget, ...]:
    """All disks of one revision of a machine, the boot disk first."""

    def disk(name: str, chain: Chain, text: str, bus: str, boot_order: int | None) -> DiskTarget:
        place = (owner.deployment, owner.instance, target.machine, revision, name)
        return DiskTarget(name, chain, text, bus, claim_name(*place), volume_name(owner.namespace, *place), boot_order)

    boot, *others = target.blueprint.chain_texts
    extra_disks = zip(target.blueprint.machine.disks, others, strict=True)
    return (
        disk("", target.chain, boot, "", None),
        *(disk(extra.name, extra.chain, text, extra.bus, extra.boot_order) for extra, text in extra_disks),
    )
