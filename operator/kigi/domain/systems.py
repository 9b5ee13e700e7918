"""The system tree: each node is a state of a whole system, and has only its differences from its parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kigi.domain.layers import MAX_DEPTH, Chain, Digest, Layer, total_bytes, unique_layers
from kigi.domain.merge_patch import merge_template
from kigi.errors import BootOrderCycle, ChainTooDeep, MachineUnknown, MachineWithoutImage, SystemCycle, SystemMissing


@dataclass(frozen=True, slots=True)
class DiskChange:
    """Change of an extra disk by one state; None keeps the parent state's value."""

    name: str
    image: str | None = None
    bus: str | None = None
    removed: bool = False


@dataclass(frozen=True, slots=True)
class MachineChange:
    """Change of a machine by one state; None keeps the parent state's value."""

    name: str
    image: str | None = None
    template: Mapping[str, Any] | None = None
    removed: bool = False
    disks: tuple[DiskChange, ...] = ()


@dataclass(frozen=True, slots=True)
class System:
    """One node of the system tree as its SystemNode declares it."""

    name: str
    parent: str | None = None
    machines: tuple[MachineChange, ...] = ()
    networks: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ResolvedDisk:
    """An extra disk of a machine."""

    name: str
    image: str
    chain: Chain
    bus: str


@dataclass(frozen=True, slots=True)
class ResolvedMachine:
    """A machine of a state, with what it inherits. ``template`` has the API's camelCase fields."""

    name: str
    image: str
    chain: Chain
    template: Mapping[str, Any] = field(default_factory=dict)
    disks: tuple[ResolvedDisk, ...] = ()
    """Extra disks, sorted by name."""

    @property
    def chains(self) -> tuple[Chain, ...]:
        """Chains of all its disks; the boot disk's comes first."""
        return (self.chain, *(disk.chain for disk in self.disks))

    @property
    def after(self) -> tuple[str, ...]:
        """Machines that must be ready before this one starts."""
        return tuple(self.template.get("after") or ())

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
    networks: tuple[Mapping[str, Any], ...] = ()

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
            raise SystemCycle(f"SystemNode {name}: spec.parent leads back to itself; correct one node of the cycle")
        system = systems.get(name)
        if system is None:
            field_name = f"SystemNode {path[-1].name}: spec.parent.name" if path else "system"
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
    templates: dict[str, Mapping[str, Any]] = {}
    networks: dict[str, Mapping[str, Any]] = {}
    disks: dict[str, dict[str, DiskChange]] = {}
    for system in path:
        for change in system.machines:
            _apply_change(system.name, change, images, templates)
            _apply_disks(system.name, change, disks)
        for network in system.networks:
            networks[str(network.get("name"))] = network

    def extra_disks(machine: str) -> tuple[ResolvedDisk, ...]:
        found = sorted(disks.get(machine, {}).values(), key=lambda disk: disk.name)
        return tuple(
            ResolvedDisk(disk.name, disk.image, chain_of(disk.image), disk.bus or "virtio")
            for disk in found
            if disk.image is not None
        )

    machines = tuple(
        ResolvedMachine(name, images[name], chain_of(images[name]), templates.get(name, {}), extra_disks(name))
        for name in sorted(images)
    )
    _check_boot_order(top, machines)
    return ResolvedSystem(top, len(path), machines, tuple(networks[name] for name in sorted(networks)))


def _check_boot_order(system: str, machines: Sequence[ResolvedMachine]) -> None:
    """Raises if an ``after`` names an unknown machine, or if machines wait for each other. O(machines + entries)."""
    after = {machine.name: machine.after for machine in machines}
    for name, before in after.items():
        for one in before:
            if one not in after:
                raise MachineUnknown(
                    f"SystemNode {system}: spec.machines[{name}].template.after: the state has no machine {one}; "
                    "delete the entry, or add the machine"
                )
    try:
        TopologicalSorter(after).prepare()
    except CycleError as exc:
        raise BootOrderCycle(
            f"SystemNode {system}: spec.machines[].template.after: {' waits for '.join(reversed(exc.args[1]))}; "
            "delete one of these entries"
        ) from exc


def _apply_change(
    system: str, change: MachineChange, images: dict[str, str], templates: dict[str, Mapping[str, Any]]
) -> None:
    field_name = f"SystemNode {system}: spec.machines[{change.name}]"
    if change.removed:
        if change.name not in images:
            raise MachineUnknown(f"{field_name}.removed: no ancestor state has this machine; delete the entry")
        del images[change.name]
        templates.pop(change.name, None)
        return
    if change.image is not None:
        images[change.name] = change.image
    elif change.name not in images:
        raise MachineWithoutImage(f"{field_name}.image: no ancestor state has this machine; name its image")
    if change.template is not None:
        templates[change.name] = merge_template(templates.get(change.name, {}), change.template)


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
            raise MachineWithoutImage(f"{field_name}.image: no ancestor state has this disk; name its image")
        else:
            image = disk.image or (below.image if below else None)
            known[disk.name] = DiskChange(disk.name, image, disk.bus or (below.bus if below else None))
