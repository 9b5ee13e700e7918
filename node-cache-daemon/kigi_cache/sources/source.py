"""What the filler needs of a place that layers are fetched from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from kigi.domain.layers import Digest, Layer


def never() -> bool:
    """No disk waits for the layer."""
    return False


class Source(Protocol):
    """A repository, or other nodes with a repository behind them. Thread-safe."""

    def read(self, layer: Layer, start: int, is_urgent: Callable[[], bool] = never) -> Iterator[memoryview]:
        """The layer's bytes from ``start`` to its end, in order; blocks. Raises KigiError.

        ``is_urgent``: whether a disk waits for the layer now; then a slow source is not waited for.
        A piece is valid until the next one is requested: its buffer is used again.
        """

    def distrust(self, digest: Digest) -> None:
        """The bytes read of that layer do not have its digest."""

    def done(self, digest: Digest) -> None:
        """The bytes read of that layer were right, or are not needed any more."""
