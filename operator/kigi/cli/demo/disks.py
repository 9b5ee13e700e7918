"""The disks of the exercise: a layer for each node of its image tree, made in about a second and without other tools.

A disk has 512 clusters of 64 KiB. The first one has the guest's program, the second one the text that the guest prints,
the third one its counter of starts. A level fills clusters behind them with bytes that do not compress: they stand for
the level's software, so that the sizes are those of an exercise with Linux guests of a few megabytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kigi.cli.demo.exercise import Branch, image_branches
from kigi.cli.demo.program import SECTOR
from kigi.domain.layers import Layer, layer_file_name
from kigi.publishing.layer_folder import file_digest
from kigi.publishing.layer_writer import CLUSTER, Difference, layer_bytes, write_layer

DISK_BYTES = 512 * CLUSTER
PROGRAM, TEXT, COUNTER = 0, 1, 2
"""Clusters of the guest's program, of the text that it prints, and of its counter, which no layer has."""
FILLERS: Mapping[str, range] = {
    "base": range(3, 284),
    "bases": range(284, 304),
    "role": range(304, 316),
    "machine": range(316, 320),
    "infected": range(320, 323),
    "cleaned": range(323, 326),
    "restored": range(326, 329),
}
"""Clusters that a level fills: of the root, of the two bases above it, by kind of level, and by state."""


@dataclass(frozen=True, slots=True)
class DemoLayer:
    """A finished layer; ``flat_bytes``: length of a qcow2 file without a parent that has the same disk content."""

    branch: Branch
    layer: Layer
    path: Path
    flat_bytes: int


def make_layers(folder: Path, run: str) -> dict[str, DemoLayer]:
    """Name of the image -> its layer, parents first; the files are in ``folder``, 40 MB in all.

    ``run`` is part of the root's content, and so of every digest: two runs have no layer in common, and equal arguments
    give equal layers.
    """
    made: dict[str, DemoLayer] = {}
    held: dict[str, frozenset[int]] = {}
    for branch in image_branches():
        parent = made[branch.parent] if branch.parent is not None else None
        content = dict(clusters(branch, run))
        held[branch.name] = frozenset(content) | (held[branch.parent] if branch.parent is not None else frozenset())
        path = folder / f"{branch.name}.qcow2"
        backing = layer_file_name(parent.layer.digest) if parent is not None else None
        path.unlink(missing_ok=True)
        write_layer(path, DISK_BYTES, backing, Difference(tuple(sorted(content)), ()), content.__getitem__)
        layer = Layer(
            file_digest(path), path.stat().st_size, DISK_BYTES, parent.layer.digest if parent is not None else None
        )
        flat = layer_bytes(DISK_BYTES, Difference(tuple(sorted(held[branch.name])), ()))
        made[branch.name] = DemoLayer(branch, layer, path, flat)
    return made


def clusters(branch: Branch, run: str) -> Iterator[tuple[int, bytes]]:
    """Index and bytes of each cluster in which the level differs from its parent."""
    if branch.parent is None:
        yield PROGRAM, SECTOR.ljust(CLUSTER, b"\0")
    if branch.machine is not None:
        text = f"machine={branch.machine} state={branch.state}\0"
        yield TEXT, text.encode().ljust(CLUSTER, b"\0")
    filled = FILLERS[_filler_of(branch)]
    seed = f"{run} {branch.name}" if branch.parent is None else branch.name
    data = hashlib.shake_128(seed.encode()).digest(len(filled) * CLUSTER)
    for place, index in enumerate(filled):
        yield index, data[place * CLUSTER : (place + 1) * CLUSTER]


def _filler_of(branch: Branch) -> str:
    if branch.parent is None:
        return "base"
    if branch.kind == "base":
        return "bases"
    return branch.kind if branch.kind != "state" else branch.state or ""
