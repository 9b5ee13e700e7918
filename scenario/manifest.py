"""The description of a build, ``manifest.json``: the file of each image, and the images of each state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kigi.publishing.layer_writer import Difference, layer_bytes, read_difference
from scenario.tree import INFECTED, MACHINES, REPAIRED, Level, resolved_images, system_states

FILE = "manifest.json"
Variant = Literal["tiny", "real"]


@dataclass(frozen=True, slots=True)
class Image:
    """One node of the image tree. ``file`` is relative to the manifest.

    ``flat_size_bytes``: length of a qcow2 file without a parent that has the same disk content.
    """

    name: str
    parent: str | None
    file: str
    virtual_size_bytes: int
    file_size_bytes: int
    flat_size_bytes: int
    kind: str
    machine: str | None
    state: str | None


@dataclass(frozen=True, slots=True)
class System:
    """One state of the system; ``machines``: machine -> image, only those that differ from the parent state."""

    name: str
    parent: str | None
    description: str
    machines: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Guest:
    """Expected report of a machine on its serial console in one state of the system."""

    image: str
    state: str
    marker: Literal["running", "none"]
    services: Literal["ok", "bad"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A finished build. ``images``: parents first; ``roles``: machine -> role; ``guests``: state -> machine."""

    variant: Variant
    images: tuple[Image, ...]
    systems: tuple[System, ...]
    roles: Mapping[str, str]
    guests: Mapping[str, Mapping[str, Guest]]

    def save(self, folder: Path) -> None:
        """Write the manifest to ``folder/manifest.json``."""
        (folder / FILE).write_text(json.dumps(_camel(asdict(self)), indent=1) + "\n")

    def chain(self, image: str) -> tuple[Image, ...]:
        """The image and its ancestors, root first."""
        by_name = {node.name: node for node in self.images}
        chain: list[Image] = []
        name: str | None = image
        while name is not None:
            chain.append(by_name[name])
            name = by_name[name].parent
        return tuple(reversed(chain))


def load(folder: Path) -> Manifest:
    """Read ``folder/manifest.json``."""
    found = _snake(json.loads((folder / FILE).read_text()))
    return Manifest(
        variant=found["variant"],
        images=tuple(Image(**image) for image in found["images"]),
        systems=tuple(System(**system) for system in found["systems"]),
        roles=found["roles"],
        guests={
            state: {machine: Guest(**guest) for machine, guest in guests.items()}
            for state, guests in found["guests"].items()
        },
    )


def describe(
    variant: Variant, levels: Sequence[Level], folder: Path, files: Mapping[str, str], virtual_size_bytes: int
) -> Manifest:
    """The manifest of these levels; ``files``: image -> file name in ``folder``."""
    flat = _flat_sizes(levels, folder, files, virtual_size_bytes)
    return Manifest(
        variant=variant,
        images=tuple(
            Image(
                name=level.name,
                parent=level.parent,
                file=files[level.name],
                virtual_size_bytes=virtual_size_bytes,
                file_size_bytes=(folder / files[level.name]).stat().st_size,
                flat_size_bytes=flat[level.name],
                kind=level.kind,
                machine=level.machine,
                state=level.state,
            )
            for level in levels
        ),
        systems=tuple(System(state.name, state.parent, state.description, state.images) for state in system_states()),
        roles={machine.name: machine.role for machine in MACHINES},
        guests=_guests({level.name: level for level in levels}),
    )


def _flat_sizes(
    levels: Sequence[Level], folder: Path, files: Mapping[str, str], virtual_size_bytes: int
) -> dict[str, int]:
    held: dict[str, frozenset[int]] = {}
    for level in levels:
        own = read_difference(folder / files[level.name])
        below = held[level.parent] if level.parent else frozenset()
        held[level.name] = (below - frozenset(own.zero)) | frozenset(own.data)
    return {
        name: layer_bytes(virtual_size_bytes, Difference(tuple(sorted(clusters)), ()))
        for name, clusters in held.items()
    }


def _guests(levels: Mapping[str, Level]) -> dict[str, dict[str, Guest]]:
    guests: dict[str, dict[str, Guest]] = {}
    for system in system_states():
        guests[system.name] = {
            machine: Guest(
                image=image,
                state=levels[image].state or "",
                marker="running" if system.name == "infected" and machine in INFECTED else "none",
                services="bad" if system.name != "restored" and machine in REPAIRED else "ok",
            )
            for machine, image in sorted(resolved_images(system.name).items())
        }
    return guests


def _rename(value: Any, rename: Any) -> Any:
    if isinstance(value, Mapping):
        return {rename(key): _rename(item, rename) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rename(item, rename) for item in value]
    return value


def _camel(value: Any) -> Any:
    return _rename(value, lambda key: "".join((part.title() if n else part) for n, part in enumerate(key.split("_"))))


def _snake(value: Any) -> Any:
    return _rename(value, lambda key: "".join(f"_{char.lower()}" if char.isupper() else char for char in key))
