"""Bytes of layer files that deployment and switches of the exercise move, compared with whole images.

Pure: the only input is the manifest. Published layers may be slightly smaller or larger than the files of a build.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scenario.manifest import Manifest
from scenario.tree import resolved_images


@dataclass(frozen=True, slots=True)
class Move:
    """One step: ``moved_bytes`` with trees and cache, ``full_bytes`` with a whole flat image for every VM."""

    name: str
    moved_bytes: int
    full_bytes: int
    layers: int

    @property
    def saved(self) -> float:
        """Share of ``full_bytes`` that trees and cache save, 0 to 1."""
        return 1 - self.moved_bytes / self.full_bytes


def moves(manifest: Manifest) -> Iterator[Move]:
    """The first deployment of the root state on an empty node, then each switch to the next state."""
    held: set[str] = set()
    for system in manifest.systems:
        chains = [manifest.chain(image) for image in resolved_images(system.name).values()]
        missing = {layer.name: layer for chain in chains for layer in chain if layer.name not in held}
        verb = "switch to" if held else "first deployment of"
        moved_bytes = sum(layer.file_size_bytes for layer in missing.values())
        yield Move(
            f"{verb} {system.name}", moved_bytes, sum(chain[-1].flat_size_bytes for chain in chains), len(missing)
        )
        held |= missing.keys()


def table(manifest: Manifest) -> str:
    """``moves`` as a text table, in MB (10^6 bytes)."""
    lines = [f"{'':32}{'layers':>7}{'moved MB':>11}{'full MB':>11}{'saved':>9}"]
    lines += [
        f"{move.name:32}{move.layers:7}{move.moved_bytes / 1e6:11.2f}{move.full_bytes / 1e6:11.1f}{move.saved:9.2%}"
        for move in moves(manifest)
    ]
    return "\n".join(lines)
