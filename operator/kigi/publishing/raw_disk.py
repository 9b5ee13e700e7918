"""Raw disk images by clusters, and the layer of the difference between two of them."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kigi.publishing.layer_writer import CLUSTER, ZEROS, Difference, compare, write_layer


class RawDisk:
    """A raw disk image, to be used as a context manager; without a file it is all zeros."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("rb") if path is not None else None
        size = os.fstat(self._file.fileno()).st_size if self._file is not None else 0
        self._size = size
        self._map: mmap.mmap | None = None
        if self._file is not None and size:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def __enter__(self) -> RawDisk:
        return self

    def __exit__(self, *_: object) -> None:
        if self._map is not None:
            self._map.close()
        if self._file is not None:
            self._file.close()

    def clusters(self) -> Iterator[int]:
        """Indices of the clusters for which the file system stores data; all others are zeros.

        Windows does not tell data from holes: there it is every cluster.
        """
        if self._file is None:
            return
        if sys.platform == "win32":
            yield from range(-(-self._size // CLUSTER))
            return
        end = 0
        while end < self._size:
            try:
                start = os.lseek(self._file.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: no data after this offset
                return
            end = os.lseek(self._file.fileno(), start, os.SEEK_HOLE)
            yield from range(start // CLUSTER, -(-end // CLUSTER))

    def read(self, index: int) -> bytes:
        """A whole cluster; bytes after the end of the disk are zeros."""
        if self._map is None:
            return ZEROS
        return self._map[index * CLUSTER : (index + 1) * CLUSTER].ljust(CLUSTER, b"\0")


def write_difference(disk: Path, parent: Path | None, target: Path, size_bytes: int, backing: str | None) -> None:
    """Writes the layer that turns the raw disk ``parent`` (None: zeros) into ``disk``; ``backing``: its parent's name.

    Blocks. Reads only the clusters for which either file has data.
    """
    with RawDisk(disk) as now, RawDisk(parent) as before:
        candidates = {*now.clusters(), *before.clusters()}
        inside = (index for index in candidates if index * CLUSTER < size_bytes)
        difference: Difference = compare(size_bytes, inside, now.read, before.read)
        write_layer(target, size_bytes, backing, difference, now.read)
