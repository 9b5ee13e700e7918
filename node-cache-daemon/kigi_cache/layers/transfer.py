"""Fetches one layer into the store; blocks, so it runs in a thread."""

from __future__ import annotations

import hashlib
import os
from io import FileIO
from typing import Protocol

from kigi.domain.layers import Layer
from kigi_cache.layers.jobs import Job, Urgency
from kigi_cache.layers.store import Store
from kigi_cache.layers.verification import CHUNK_BYTES
from kigi_cache.sources.source import Source


class _Hash(Protocol):
    def update(self, data: memoryview | bytes, /) -> None: ...


def transfer(store: Store, source: Source, job: Job) -> None:
    """Continue the layer's partial file and commit it. Every byte that is kept is hashed, earlier ones again.

    Updates ``job.fetched_bytes``. Once ``job.stop`` is set, returns without a commit; the partial file stays. Raises
    what the source and ``Store.commit`` raise, and OSError.
    """
    layer = job.layer
    if store.is_held(layer.digest):
        return
    if os.path.lexists(store.path(layer.digest)) and store.verify(layer):
        return
    sha = hashlib.sha256()
    with store.part_path(layer.digest).open("ab+", buffering=0) as part:
        job.fetched_bytes = _hash_existing(part, layer, sha)
        if job.fetched_bytes < layer.size_bytes:
            _receive(part, source, job, sha)
    if not job.stop.is_set():
        store.commit(layer, sha.hexdigest())


def _hash_existing(part: FileIO, layer: Layer, sha: _Hash) -> int:
    """Hash the bytes of an earlier attempt; their number. A file longer than the layer is emptied."""
    part.seek(0)
    if os.fstat(part.fileno()).st_size > layer.size_bytes:
        part.truncate(0)
    while chunk := part.read(CHUNK_BYTES):
        sha.update(chunk)
    return part.tell()


def _receive(part: FileIO, source: Source, job: Job, sha: _Hash) -> None:
    """Append the rest, until it is complete, longer than declared (``commit`` refuses it), or stopped."""
    for data in source.read(job.layer, job.fetched_bytes, lambda: job.urgency >= Urgency.DISK):
        written = 0
        while written < len(data):
            written += part.write(data[written:])
        sha.update(data)
        job.fetched_bytes += len(data)
        if job.fetched_bytes > job.layer.size_bytes or job.stop.is_set():
            return
