"""A repository of layers in memory, with the methods that publishing and garbage collection use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kigi.domain.collection import StoredObject, Upload, layer_of
from kigi.domain.layers import MAX_DEPTH, Digest, object_key
from kigi.domain.qcow2 import HEADER_BYTES
from kigi.errors import LayerNotInRepository

NOW = datetime(2026, 1, 10, tzinfo=UTC)


class MemoryRepository:
    """``age`` of a stored layer is set by ``store``; ``sent`` counts publications that were not there already."""

    def __init__(self, *, max_depth: int = MAX_DEPTH) -> None:
        self.max_depth = max_depth
        self.layers: dict[Digest, bytes] = {}
        self.stored_at: dict[Digest, datetime] = {}
        self.unfinished: list[Upload] = []
        self.fetched: list[Digest] = []
        self.sent = 0

    def store(self, digest: Digest, content: bytes, age: timedelta = timedelta()) -> None:
        """Puts a layer in."""
        self.layers[digest], self.stored_at[digest] = content, NOW - age

    async def fetch(self, digest: Digest, target: Path) -> None:
        self.fetched.append(digest)
        target.write_bytes(self._content(digest))

    async def publish(self, path: Path, digest: Digest, progress: Any = None) -> bool:
        if digest in self.layers:
            return False
        self.sent += 1
        self.store(digest, path.read_bytes())
        return True

    async def copy(self, digest: Digest, sink: Any) -> None:
        content = self._content(digest)
        for start in range(0, len(content), 4096):
            sink(content[start : start + 4096])

    async def size_of(self, digest: Digest) -> int | None:
        return len(self.layers[digest]) if digest in self.layers else None

    async def head(self, digest: Digest) -> bytes:
        return self._content(digest)[:HEADER_BYTES]

    async def objects(self) -> tuple[list[StoredObject], datetime]:
        found = [StoredObject(object_key(d), len(c), self.stored_at[d]) for d, c in self.layers.items()]
        return found, NOW

    async def uploads(self) -> list[Upload]:
        return list(self.unfinished)

    async def abort(self, upload: Upload) -> None:
        self.unfinished.remove(upload)

    async def remove(self, item: StoredObject) -> bool:
        """Like the real one: False if the object was stored again since it was listed."""
        digest = layer_of(item.key)
        if digest is None or self.stored_at.get(digest) != item.modified:
            return False
        del self.layers[digest], self.stored_at[digest]
        return True

    def _content(self, digest: Digest) -> bytes:
        if digest not in self.layers:
            raise LayerNotInRepository(f"no layer {digest}")
        return self.layers[digest]
