"""Orders of frozen copies, and overlays that stand in for those of a node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kigi.api.node_cache import CaptureOrder
from kigi_cache.captures.files import COPY
from kigi_cache.disks.overlay_files import Extent
from kigi_cache.filesystem import remove

PARENT = "sha256:" + "1" * 64


def order(id_: str = "c1", action: str = "Copy", **fields: Any) -> CaptureOrder:
    """An order for the overlay ``v``, on a virtual disk of 512 bytes."""
    layer = {"parentDigest": PARENT, "virtualSizeBytes": 512, "repositoryName": "default"}
    return CaptureOrder.model_validate(
        {"id": id_, "volume": "v", **layer, "action": action, "mounted": False, **fields}
    )


class Overlays:
    """One overlay of 40 bytes on a chain of 100; ``error`` is raised by every call."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.layers = 1
        self.copies = 0
        self.before_copy: Callable[[], None] = lambda: None

    def delete_links(self, directory: Path) -> None:
        remove(directory)

    def measure(self, handle: str, *, parent: str, size: int) -> Extent:
        if self.error is not None:
            raise self.error
        return Extent(allocated_bytes=40, chain_bytes=100, layers=self.layers)

    async def copy(self, handle: str, directory: Path, name: str, *, parent: str, size: int, mounted: bool) -> None:
        self.before_copy()
        if self.error is not None:
            raise self.error
        assert name == COPY
        self.copies += 1
        (directory / name).write_bytes(b"x" * 40)
