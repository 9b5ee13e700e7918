"""Nodes of the trees from the specs of their API objects, which the API server has validated.

``home`` is the namespace of the object; without it, a reference with a namespace always means another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kigi.domain.guests import Guest
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.machine_settings import settings_of
from kigi.domain.systems import DiskChange, MachineChange, System
from kigi.domain.tree_names import name_in
from kigi.errors import SpecInvalid

Spec = Mapping[str, Any]


def image_of(name: str, spec: Spec, home: str) -> Image:
    """The image of a VMImageNode's spec in the namespace ``home``; raises SpecInvalid if it has no layer."""
    layer = spec.get("layer")
    if layer is None:
        raise SpecInvalid(f"VMImageNode {name}: spec.layer: the image has none; publish it with kigi publish")
    guest = spec.get("guest") or {}
    return Image(
        name=name,
        digest=Digest(layer["digest"]),
        size_bytes=int(layer["sizeBytes"]),
        virtual_size_bytes=int(layer["virtualSizeBytes"]),
        parent=_node(spec.get("parentRef"), home),
        repository=_name(spec.get("repositoryRef")),
        guest=Guest(guest.get("architecture"), guest.get("firmware")),
    )


def system_of(name: str, spec: Spec, home: str) -> System:
    """The state of a SystemNode's spec in the namespace ``home``; SpecInvalid for what no schema can check."""
    networks = {each["name"]: _name(each.get("multusRef")) for each in spec.get("networks") or ()}
    machines = tuple(_machine(name, item, home) for item in spec.get("machines") or ())
    return System(name, _node(spec.get("parentRef"), home), machines, networks)


def _name(ref: Spec | None) -> str | None:
    return ref["name"] if ref else None


def _node(ref: Spec | None, home: str) -> str | None:
    """The name in ``home`` of the node that a TreeRef names."""
    return name_in(home, ref.get("namespace"), ref["name"]) if ref else None


def _machine(system: str, item: Spec, home: str) -> MachineChange:
    return MachineChange(
        name=item["name"],
        image=_node((item.get("rootDisk") or {}).get("imageRef"), home),
        settings=settings_of(item, f"SystemNode {system}: spec.machines[{item['name']}]"),
        removed=bool(item.get("removed")),
        disks=tuple(_disks(item, home)),
        unset=tuple(item.get("unset") or ()),
    )


def _disks(machine: Spec, home: str) -> Iterator[DiskChange]:
    for item in machine.get("disks") or ():
        image, removed = _node(item.get("imageRef"), home), bool(item.get("removed"))
        yield DiskChange(item["name"], image, item.get("bus"), removed, item.get("bootOrder"))
