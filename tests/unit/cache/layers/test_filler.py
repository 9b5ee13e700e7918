"""The filler with a source that is played: what is asked for again, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kigi.domain.layers import Chain, Digest, Layer, digest_hex
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from tests.support.cluster import eventually_async
from tests.support.layers import make_chain, wanted

PIECE = 2**19


class Played:
    """Gives a layer's file in pieces; behind the first one it waits for ``go_on``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.go_on = threading.Event()
        self.starts: list[int] = []
        self.given_bytes = 0

    def read(self, layer: Layer, start: int) -> Iterator[memoryview]:
        self.starts.append(start)
        content = (self.directory / f"{digest_hex(layer.digest)}.qcow2").read_bytes()
        for offset in range(start, len(content), PIECE):
            piece = content[offset : offset + PIECE]
            self.given_bytes += len(piece)
            yield memoryview(piece)
            assert self.go_on.wait(30)

    def distrust(self, digest: Digest) -> None:
        pass

    def done(self, digest: Digest) -> None:
        pass


@asynccontextmanager
async def filling(root: Path, source: Played) -> AsyncIterator[Filler]:
    filler = Filler(Store(root), source, Budget(2**30))
    task = asyncio.create_task(filler.run())
    await eventually_async(filler.has_taken_stock)
    try:
        yield filler
    finally:
        source.go_on.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


@pytest.fixture(scope="module")
def chain(source_dir: Path) -> Chain:
    return make_chain(source_dir, 1, 4 * 2**20)


async def test_a_layer_asked_for_again_while_its_transfer_stops_goes_on_from_there(
    tmp_path: Path, source_dir: Path, chain: Chain
) -> None:
    source = Played(source_dir)
    async with filling(tmp_path, source) as filler:
        filler.want(wanted(chain))
        await eventually_async(lambda: filler.available(chain[0].digest) == PIECE)
        filler.want([])
        asked_again = asyncio.create_task(filler.ensure(chain, priority=200))
        await asyncio.sleep(0)
        source.go_on.set()
        await asyncio.wait_for(asked_again, 10)
        assert filler.store.is_held(chain[0].digest)
        first, again = source.starts
        assert (first, again > 0) == (0, True)


async def test_a_layer_that_nobody_wants_any_more_leaves_no_part(
    tmp_path: Path, source_dir: Path, chain: Chain
) -> None:
    source = Played(source_dir)
    async with filling(tmp_path, source) as filler:
        filler.want(wanted(chain))
        await eventually_async(lambda: filler.available(chain[0].digest) == PIECE)
        filler.want([])
        source.go_on.set()
        await eventually_async(lambda: filler.snapshot().layers == [])
        assert filler.store.parts() == []


async def test_what_is_refused_again_and_again_is_asked_for_ever_more_seldom(
    tmp_path: Path, source_dir: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try moves the whole layer for nothing."""
    monkeypatch.setattr("kigi_cache.layers.filler.RETRY_FIRST_S", 0.02)
    monkeypatch.setattr("kigi_cache.layers.filler.RETRY_SPEC_S", 0.0)
    monkeypatch.setattr("kigi_cache.layers.filler.RETRY_MOST_S", 0.02)
    source = Played(source_dir)
    source.go_on.set()
    larger = replace(chain[0], virtual_size_bytes=chain[0].virtual_size_bytes * 2)
    async with filling(tmp_path, source) as filler:
        filler.want(wanted((larger,)))
        await eventually_async(lambda: len(source.starts) == 6)
        layer, *_ = filler.snapshot().layers
        assert (layer.state, layer.reason) == ("Refused", "LayerRefused")
        tries = len(source.starts)
        await asyncio.sleep(0.4)  # the sixth wait is 0.64 s, and would be 0.02 s for any other cause
        assert len(source.starts) == tries
        filler.want(wanted(chain))
        await eventually_async(lambda: filler.store.is_held(chain[0].digest))
