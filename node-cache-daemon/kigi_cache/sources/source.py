"""What the filler needs of a place that layers are fetched from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from kigi.domain.layers import Digest, Layer


class Source(Protocol):
    """A repository, or other nodes with a repository behind them. Thread-safe."""

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        """The layer's bytes from ``start`` to its end, in order; blocks. Raises KigiError.

        A piece is valid until the next one is requested: its buffer is used again.
        """

    def distrust(self, digest: Digest) -> None:
        """The bytes read of that layer do not have its digest."""

    def done(self, digest: Digest) -> None:
        """The bytes read of that layer were right, or are not needed any more."""
