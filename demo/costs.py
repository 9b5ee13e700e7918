"""What each step would have moved in other ways; pure arithmetic over the published images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scenario.manifest import Manifest
from scenario.tree import resolved_images


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the story as it was measured; sizes in bytes, times in seconds."""

    variant: str
    name: str
    moved_bytes: int
    """Bytes that the nodes' daemons fetched."""
    minimum_bytes: int
    """Layers that the nodes lacked, each once: nothing that restores the same bits from these layers moves less."""
    full_bytes: int
    """Without trees and caches: the whole flat image of every VM that gets a new disk."""
    image_cache_bytes: int
    """One flat image per VM and a cache of whole images on each node: what containerDisk or Nova move."""
    seconds: Mapping[str, float | None] = field(default_factory=dict)
    """Until each phase was reached since the change was seen; ``guests``: until every guest said who it is."""

    @property
    def saved(self) -> float:
        """Share of ``full_bytes`` that was not moved."""
        return 1 - self.moved_bytes / self.full_bytes if self.full_bytes else 0.0

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return {**asdict(self), "saved": self.saved}


class Ledger:
    """What a node would hold if it kept layers, and if it kept whole images."""

    def __init__(self, manifest: Manifest, layer_bytes: Mapping[str, int], held: Collection[str] = ()) -> None:
        """``layer_bytes``: image -> bytes of its published layer; ``held``: images whose layers are there already."""
        self._manifest = manifest
        self._layer_bytes = layer_bytes
        self._flat = {image.name: image.flat_size_bytes for image in manifest.images}
        self._layers: set[str] = set(held)
        self._images: set[str] = set()

    def book(self, state: str, machines: Sequence[str] | None = None) -> tuple[int, int, int]:
        """(minimum, full, image cache) bytes of giving every machine of ``state`` (or these) a new disk."""
        tops = [image for machine, image in resolved_images(state).items() if machines is None or machine in machines]
        layers = {layer.name for top in tops for layer in self._manifest.chain(top)}
        minimum = sum(self._layer_bytes[name] for name in layers - self._layers)
        image_cache = sum(self._flat[name] for name in set(tops) - self._images)
        self._layers |= layers
        self._images |= set(tops)
        return minimum, sum(self._flat[top] for top in tops), image_cache
