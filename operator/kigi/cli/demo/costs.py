"""Bytes that a step moves, and would move with other methods; pure arithmetic over published images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """Measurements of one step."""

    variant: str
    name: str
    moved_bytes: int
    """Bytes that the nodes' daemons fetched."""
    minimum_bytes: int
    """Size of the layers that were missing on the nodes, each counted once per node: the minimum for these layers."""
    full_bytes: int
    """Size without trees and caches: the whole flat image of every VM that gets a new disk."""
    image_cache_bytes: int
    """Size with one flat image per VM and a cache of whole images on each node, as with containerDisk or Nova."""
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    """Phase -> seconds from the observed change to the phase; ``guests``: until every guest has reported."""

    @property
    def saved(self) -> float:
        """Share of ``full_bytes`` that was not moved, 0 to 1."""
        return 1 - self.moved_bytes / self.full_bytes if self.full_bytes else 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields and ``saved``, for report.json."""
        return {**asdict(self), "saved": self.saved}


class Ledger:
    """Models two caches on each node, one of layers and one of whole images, over the steps of a run."""

    def __init__(
        self,
        chains: Mapping[str, Sequence[str]],
        layer_bytes: Mapping[str, int],
        flat_bytes: Mapping[str, int],
        held: Iterable[tuple[str, str]] = (),
    ) -> None:
        """``chains``: image -> its ancestors and itself; the sizes are by image; ``held``: cached (node, image)."""
        self._chains = chains
        self._layer_bytes = layer_bytes
        self._flat = flat_bytes
        self._layers: set[tuple[str, str]] = set(held)
        self._images: set[tuple[str, str]] = set()

    def book(self, disks: Sequence[tuple[str, str]]) -> tuple[int, int, int]:
        """Bytes (minimum, full, image cache) of a new disk for each of these pairs of node and image.

        Adds the layers and images to the nodes' caches.
        """
        layers = {(node, layer) for node, image in disks for layer in self._chains[image]}
        minimum = sum(self._layer_bytes[layer] for _, layer in layers - self._layers)
        image_cache = sum(self._flat[image] for _, image in set(disks) - self._images)
        self._layers |= layers
        self._images |= set(disks)
        return minimum, sum(self._flat[image] for _, image in disks), image_cache
