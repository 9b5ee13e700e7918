"""One transfer into a real store: what is fetched, what is hashed, and when it ends early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kigi.domain.layers import Digest, Layer
from kigi.errors import LayerCorrupt, RepositoryUnreachable
from kigi_cache.layers.jobs import Job
from kigi_cache.layers.store import Store
from kigi_cache.layers.transfer import transfer
from tests.support.stored import commit, content, layer_of

DATA = content(1)
LAYER = layer_of(DATA)
PIECE = 50_000


class Pieces:
    """Gives ``data`` in pieces; reads and then raises ``fault`` if there is one."""

    def __init__(self, data: bytes = DATA, fault: Exception | None = None) -> None:
        self.data, self.fault = data, fault
        self.starts: list[int] = []
        self.given: list[int] = []

    def read(self, layer: Layer, start: int, is_urgent: object = None) -> Iterator[memoryview]:
        self.starts.append(start)
        buffer = memoryview(bytearray(PIECE))
        for offset in range(start, len(self.data), PIECE):
            piece = self.data[offset : offset + PIECE]
            buffer[: len(piece)] = piece
            self.given.append(len(piece))
            yield buffer[: len(piece)]
            buffer[:] = bytes(PIECE)  # it is used again
        if self.fault is not None:
            raise self.fault

    def distrust(self, digest: Digest) -> None: ...

    def done(self, digest: Digest) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.recover()
    return made


def test_a_layer_is_fetched_and_held(store: Store) -> None:
    source, job = Pieces(), Job(LAYER, 1)
    transfer(store, source, job)
    assert store.path(LAYER.digest).read_bytes() == DATA
    assert (source.starts, job.fetched_bytes) == ([0], len(DATA))


def test_the_bytes_of_an_earlier_attempt_are_kept_and_hashed(store: Store) -> None:
    store.part_path(LAYER.digest).write_bytes(DATA[:77_777])
    source = Pieces()
    transfer(store, source, Job(LAYER, 1))
    assert source.starts == [77_777]
    assert store.path(LAYER.digest).read_bytes() == DATA


def test_wrong_bytes_of_an_earlier_attempt_are_found(store: Store) -> None:
    store.part_path(LAYER.digest).write_bytes(b"x" * 1000)
    with pytest.raises(LayerCorrupt):
        transfer(store, Pieces(), Job(LAYER, 1))
    assert store.parts() == []


def test_a_complete_partial_file_is_only_hashed(store: Store) -> None:
    store.part_path(LAYER.digest).write_bytes(DATA)
    source = Pieces()
    transfer(store, source, Job(LAYER, 1))
    assert source.starts == []
    assert store.is_held(LAYER.digest)


def test_a_partial_file_longer_than_the_layer_is_fetched_from_the_start(store: Store) -> None:
    store.part_path(LAYER.digest).write_bytes(DATA + b"x")
    source = Pieces()
    transfer(store, source, Job(LAYER, 1))
    assert source.starts == [0]
    assert store.is_held(LAYER.digest)


def test_a_held_layer_is_not_fetched(store: Store) -> None:
    layer = commit(store, 1)
    source = Pieces()
    transfer(store, source, Job(layer, 1))
    assert source.starts == []


def test_a_file_that_is_not_trusted_is_read_before_it_is_fetched(store: Store) -> None:
    store.path(LAYER.digest).write_bytes(DATA)
    source = Pieces()
    transfer(store, source, Job(LAYER, 1))
    assert source.starts == []
    assert store.is_held(LAYER.digest)


def test_a_wrong_file_in_the_layers_place_is_replaced(store: Store) -> None:
    store.path(LAYER.digest).write_bytes(b"wrong")
    transfer(store, Pieces(), Job(LAYER, 1))
    assert store.path(LAYER.digest).read_bytes() == DATA


def test_a_stop_keeps_what_has_arrived(store: Store) -> None:
    source, job = Pieces(), Job(LAYER, 1)
    job.stop.set()
    transfer(store, source, job)
    assert not store.is_held(LAYER.digest)
    assert store.part_path(LAYER.digest).read_bytes() == DATA[:PIECE]
    assert job.fetched_bytes == PIECE


def test_an_interruption_keeps_what_has_arrived(store: Store) -> None:
    with pytest.raises(RepositoryUnreachable):
        transfer(store, Pieces(DATA[:120_000], RepositoryUnreachable("gone")), Job(LAYER, 1))
    source = Pieces()
    transfer(store, source, Job(LAYER, 1))
    assert source.starts == [120_000]


def test_an_endless_object_is_not_read_to_its_end(store: Store) -> None:
    source = Pieces(DATA + bytes(50 * PIECE))
    with pytest.raises(LayerCorrupt, match="instead of"):
        transfer(store, source, Job(LAYER, 1))
    assert sum(source.given) <= len(DATA) + PIECE
