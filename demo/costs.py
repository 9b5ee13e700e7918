"""Bytes that a step would move with other methods; pure arithmetic over the published images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scenario.manifest import Manifest
from scenario.tree import resolved_images


@dataclass(frozen=True, slots=True)
class Step:
    """Measurements of one step of the demo."""

    variant: str
    name: str
    moved_bytes: int
    """Bytes that the nodes' daemons fetched."""
    minimum_bytes: int
    """Size of the layers that were missing on the nodes, each counted once: the minimum for these layers."""
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
    """Models two caches of a node, one of layers and one of whole images, over the steps of the demo."""

    def __init__(self, manifest: Manifest, layer_bytes: Mapping[str, int], held: Collection[str] = ()) -> None:
        """``layer_bytes``: image -> size of its published layer; ``held``: images whose layers are cached already."""
        self._manifest = manifest
        self._layer_bytes = layer_bytes
        self._flat = {image.name: image.flat_size_bytes for image in manifest.images}
        self._layers: set[str] = set(held)
        self._images: set[str] = set()

    def book(self, state: str, machines: Sequence[str] | None = None) -> tuple[int, int, int]:
        """Bytes (minimum, full, image cache) of giving every machine of ``state``, or ``machines``, a new disk.

        Adds the layers and images to the caches.
        """
        tops = [image for machine, image in resolved_images(state).items() if machines is None or machine in machines]
        layers = {layer.name for top in tops for layer in self._manifest.chain(top)}
        minimum = sum(self._layer_bytes[name] for name in layers - self._layers)
        image_cache = sum(self._flat[name] for name in set(tops) - self._images)
        self._layers |= layers
        self._images |= set(tops)
        return minimum, sum(self._flat[top] for top in tops), image_cache
