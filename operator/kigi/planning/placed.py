"""Targets with their disks: which revision on which node, under which names."""

from __future__ import annotations

from dataclasses import dataclass

from kigi.domain.fingerprint import Fingerprint
from kigi.domain.layers import Chain
from kigi.domain.names import claim_name, volume_name
from kigi.domain.observed import Slot
from kigi.planning.targets import MachineTarget
from kigi.planning.view import DeploymentView, MachineState


@dataclass(frozen=True, slots=True)
class Owner:
    """The SystemDeployment that objects belong to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class DiskTarget:
    """One disk of a placed machine, with the names of its volume and claim."""

    name: str
    """Empty for the boot disk."""
    chain: Chain
    bus: str
    """Empty for the boot disk, whose bus the template defines."""
    claim: str
    volume: str


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
    waits_for: tuple[str, ...] = ()
    """Machines of its ``after`` that are not ready yet."""

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

    view: DeploymentView
    owner: Owner
    targets: tuple[MachineTarget, ...]
    """Every VM that should exist."""
    placed: tuple[PlacedTarget, ...]
    """Those of ``targets`` that have a node."""
    hook_image: str = ""


def disk_targets(owner: Owner, target: MachineTarget, revision: int) -> tuple[DiskTarget, ...]:
    """All disks of one revision of a machine, the boot disk first."""

    def disk(name: str, chain: Chain, bus: str) -> DiskTarget:
        place = (owner.name, target.instance, target.machine, revision, name)
        return DiskTarget(name, chain, bus, claim_name(*place), volume_name(owner.namespace, *place))

    extra_disks = target.blueprint.machine.disks
    return (disk("", target.chain, ""), *(disk(extra.name, extra.chain, extra.bus) for extra in extra_disks))
