"""The system tree: each node is a state of a whole system, and has only its differences from its parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kigi.domain.guests import NO_GUEST, Guest
from kigi.domain.layers import MAX_DEPTH, Chain, Digest, Layer, total_bytes, unique_layers
from kigi.domain.machine_checks import check_machine
from kigi.domain.machine_settings import Settings, merge_settings
from kigi.errors import (
    BootOrderCycle,
    ChainTooDeep,
    MachineUnknown,
    MachineWithoutImage,
    SystemCycle,
    SystemMissing,
)


@dataclass(frozen=True, slots=True)
class DiskChange:
    """Change of an extra disk by one state; None keeps the parent state's value."""

    name: str
    image: str | None = None
    bus: str | None = None
    removed: bool = False
    boot_order: int | None = None

    def seen_from(self, rename: Callable[[str], str]) -> DiskChange:
        """The change with the name that another namespace has for the image."""
        return replace(self, image=rename(self.image)) if self.image is not None else self


@dataclass(frozen=True, slots=True)
class MachineChange:
    """Change of a machine by one state; None keeps the parent state's value."""

    name: str
    image: str | None = None
    settings: Settings = field(default_factory=dict)
    removed: bool = False
    disks: tuple[DiskChange, ...] = ()
    unset: tuple[str, ...] = ()
    """Inherited settings that are dropped before ``settings`` apply; see ``UNSET``."""

    def seen_from(self, rename: Callable[[str], str]) -> MachineChange:
        """The change with the names that another namespace has for the images."""
        image = rename(self.image) if self.image is not None else None
        return replace(self, image=image, disks=tuple(disk.seen_from(rename) for disk in self.disks))


@dataclass(frozen=True, slots=True)
class System:
    """One node of the system tree as its SystemNode declares it."""

    name: str
    parent: str | None = None
    machines: tuple[MachineChange, ...] = ()
    networks: Mapping[str, str | None] = field(default_factory=dict)
    """Networks that differ: name -> NetworkAttachmentDefinition, or None."""

    def seen_from(self, rename: Callable[[str], str]) -> System:
        """The state with the names that another namespace has for it, its parent and its images."""
        parent = rename(self.parent) if self.parent is not None else None
        machines = tuple(machine.seen_from(rename) for machine in self.machines)
        return replace(self, name=rename(self.name), parent=parent, machines=machines)


@dataclass(frozen=True, slots=True)
class ResolvedDisk:
    """An extra disk of a machine."""

    name: str
    image: str
    chain: Chain
    bus: str
    boot_order: int | None = None


@dataclass(frozen=True, slots=True)
class ResolvedMachine:
    """A machine of a state, with what it inherits."""

    name: str
    image: str
    chain: Chain
    settings: Settings = field(default_factory=dict)
    disks: tuple[ResolvedDisk, ...] = ()
    """Extra disks, sorted by name."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """NetworkAttachmentDefinitions by the names of the state's networks; 'pod' is none of them."""
    guest: Guest = NO_GUEST
    """Facts about the guest on the root disk."""

    @property
    def chains(self) -> tuple[Chain, ...]:
        """Chains of all its disks; the boot disk's comes first."""
        return (self.chain, *(disk.chain for disk in self.disks))

    @property
    def after(self) -> tuple[str, ...]:
        """Machines that must be ready before this one starts."""
        return tuple(self.settings.get("startAfter") or ())

    @property
    def hardware(self) -> Mapping[str, Any]:
        """Hardware with the API's names."""
        hardware: Mapping[str, Any] = self.settings.get("hardware") or {}
        return hardware

    @property
    def top(self) -> Layer:
        """The top layer of the boot disk, which is the overlay's backing file."""
        return self.chain[-1]


@dataclass(frozen=True, slots=True)
class ResolvedSystem:
    """One state of a system: all its machines, sorted by name."""

    name: str
    depth: int
    machines: tuple[ResolvedMachine, ...]
    hidden_images: frozenset[str] = frozenset()
    """Names of images that only states of other namespaces name. Nothing that this namespace can read shows them."""

    def shown_image(self, name: str) -> str:
        """The name of an image for messages and status: empty if only states of other namespaces name it."""
        return "" if name in self.hidden_images else name

    def layers(self) -> dict[Digest, Layer]:
        """Every layer of the state, once."""
        return unique_layers(chain for machine in self.machines for chain in machine.chains)

    def unique_bytes(self) -> int:
        """Bytes of all layers of the state, each once."""
        return total_bytes(self.layers().values())


def system_path(systems: Mapping[str, System], top: str) -> tuple[System, ...]:
    """States from the root to ``top``. Raises SystemMissing, SystemCycle or ChainTooDeep, naming the node."""
    path: list[System] = []
    seen: set[str] = set()
    name: str | None = top
    while name is not None:
        if name in seen:
            raise SystemCycle(f"SystemNode {name}: spec.parentRef leads back to itself; correct one node of the cycle")
        system = systems.get(name)
        if system is None:
            field_name = f"SystemNode {path[-1].name}: spec.parentRef.name" if path else "system"
            raise SystemMissing(f"{field_name} {name!r} does not exist in this namespace; apply it or correct the name")
        seen.add(name)
        path.append(system)
        if len(path) > MAX_DEPTH:
            raise ChainTooDeep(f"SystemNode {top}: more than {MAX_DEPTH} states to the root; start a new root")
        name = system.parent
    path.reverse()
    return tuple(path)


def resolve_system(systems: Mapping[str, System], chain_of: Callable[[str], Chain], top: str) -> ResolvedSystem:
    """The state ``top`` with all that it inherits.

    ``chain_of`` gives the chain of an image; what it raises passes through. Raises as well what ``system_path`` raises,
    MachineUnknown, MachineWithoutImage and BootOrderCycle. O(depth x machines).
    """
    path = system_path(systems, top)
    images: dict[str, str] = {}
    settings: dict[str, Settings] = {}
    networks: dict[str, str | None] = {}
    disks: dict[str, dict[str, DiskChange]] = {}
    for system in path:
        for change in system.machines:
            _apply_change(system.name, change, images, settings)
            _apply_disks(system.name, change, disks)
        networks.update(system.networks)

    def extra_disks(machine: str) -> tuple[ResolvedDisk, ...]:
        found = sorted(disks.get(machine, {}).values(), key=lambda disk: disk.name)
        return tuple(
            ResolvedDisk(disk.name, disk.image, chain_of(disk.image), disk.bus or "virtio", disk.boot_order)
            for disk in found
            if disk.image is not None
        )

    bound = {name: multus for name, multus in networks.items() if multus is not None}

    def resolved(name: str) -> ResolvedMachine:
        chain = chain_of(images[name])
        own = settings.get(name, {})
        machine = ResolvedMachine(name, images[name], chain, own, extra_disks(name), bound, chain[-1].guest)
        check_machine(top, machine)
        return machine

    machines = tuple(resolved(name) for name in sorted(images))
    _check_start_order(top, machines)
    return ResolvedSystem(top, len(path), machines)


def _check_start_order(system: str, machines: Sequence[ResolvedMachine]) -> None:
    """Raises if a ``startAfter`` names no machine, or if machines wait for each other. O(machines + entries)."""
    after = {machine.name: machine.after for machine in machines}
    for name, before in after.items():
        for one in before:
            if one not in after:
                raise MachineUnknown(
                    f"SystemNode {system}: spec.machines[{name}].startAfter: the state has no machine {one}; "
                    "delete the entry, or add the machine"
                )
    try:
        TopologicalSorter(after).prepare()
    except CycleError as exc:
        raise BootOrderCycle(
            f"SystemNode {system}: spec.machines[].startAfter: {' waits for '.join(reversed(exc.args[1]))}; "
            "delete one of these entries"
        ) from exc


def _apply_change(system: str, change: MachineChange, images: dict[str, str], settings: dict[str, Settings]) -> None:
    field_name = f"SystemNode {system}: spec.machines[{change.name}]"
    if change.removed:
        if change.name not in images:
            raise MachineUnknown(f"{field_name}.removed: no ancestor state has this machine; delete the entry")
        del images[change.name]
        settings.pop(change.name, None)
        return
    if change.image is not None:
        images[change.name] = change.image
    elif change.name not in images:
        raise MachineWithoutImage(f"{field_name}.rootDisk.imageRef: no ancestor state has this machine; name its image")
    settings[change.name] = merge_settings(settings.get(change.name, {}), change.settings, change.unset)


def _apply_disks(system: str, change: MachineChange, disks: dict[str, dict[str, DiskChange]]) -> None:
    if change.removed:
        disks.pop(change.name, None)
        return
    known = disks.setdefault(change.name, {}) if change.disks else {}
    for disk in change.disks:
        field_name = f"SystemNode {system}: spec.machines[{change.name}].disks[{disk.name}]"
        below = known.get(disk.name)
        if disk.removed:
            if below is None:
                raise MachineUnknown(f"{field_name}.removed: no ancestor state has this disk; delete the entry")
            del known[disk.name]
        elif below is None and disk.image is None:
            raise MachineWithoutImage(f"{field_name}.imageRef: no ancestor state has this disk; name its image")
        else:
            known[disk.name] = _changed(below, disk) if below else disk


def _changed(below: DiskChange, disk: DiskChange) -> DiskChange:
    return DiskChange(
        disk.name, disk.image or below.image, disk.bus or below.bus, boot_order=disk.boot_order or below.boot_order
    )
