"""The cache over weeks: which layers are read again, what is recorded, and the effects of a wrong clock."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from pathlib import Path

import pytest

from kigi.domain.layers import Chain, Digest, digest_hex, layer_file_name
from kigi_cache.layers.durability import RETRY_S
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import SAVE_INTERVAL_S, Store
from tests.support.layers import make_chain
from tests.support.manual_clock import EPOCH_S as START
from tests.support.manual_clock import ManualClock
from tests.support.scripted_fills import soon

HOUR, DAY = 3600.0, 86_400.0


class Nothing:
    """A source that is never used."""

    def read(self, layer: object, start: int, is_urgent: object = None) -> object:
        raise AssertionError("nothing is fetched")

    def distrust(self, digest: Digest) -> None: ...

    def done(self, digest: Digest) -> None: ...


@pytest.fixture(scope="module")
def source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


@pytest.fixture(scope="module")
def chain(source_dir: Path) -> Chain:
    return make_chain(source_dir, 3, 65_536)


class Node:
    """A cache on a machine whose clock the test sets, with a daemon that can be restarted."""

    def __init__(self, root: Path, source_dir: Path, chain: Chain) -> None:
        self.root, self.time = root, ManualClock()
        self.reads = {layer.digest: [START] for layer in chain}
        self.restart()
        for layer in chain:
            part = self.store.part_path(layer.digest)
            part.write_bytes((source_dir / layer_file_name(layer.digest)).read_bytes())
            self.store.commit(layer, digest_hex(layer.digest))
            assert self.store.persist(layer.digest)

    def restart(self) -> None:
        self.store = Store(self.root, clock=self.time.clock)
        assert self.store.recover() == []
        self.filler = Filler(self.store, Nothing(), Budget(2**40), clock=self.time.clock)  # type: ignore[arg-type]

    @property
    def now(self) -> float:
        """The machine's wall clock."""
        return self.time.epoch_s + self.time.now_s

    async def scrub(self) -> None:
        due = self.store.read_before(self.now - DAY)
        assert await self.filler.scrub(DAY) == []
        for digest in due:
            self.reads[digest].append(self.now)


async def test_every_layer_is_read_daily_for_three_weeks_with_a_daemon_that_is_restarted(
    tmp_path: Path, source_dir: Path, chain: Chain
) -> None:
    node = Node(tmp_path, source_dir, chain)
    for check in range(21 * 48):  # each half hour, as main does
        node.time.advance(HOUR / 2)
        if check % 7 == 0:
            node.restart()
        await node.scrub()
    for times in node.reads.values():
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(gaps) >= 20
        assert max(gaps) <= DAY + HOUR / 2


@pytest.mark.parametrize("step", [10 * 365 * DAY, HOUR, -HOUR], ids=["ten-years-ahead", "hour-ahead", "hour-behind"])
async def test_layers_that_were_read_by_a_wrong_clock_are_read_again(
    tmp_path: Path, source_dir: Path, chain: Chain, step: float
) -> None:
    """A machine without a battery starts so, before NTP has set its clock."""
    node = Node(tmp_path, source_dir, chain)
    node.time.advance(DAY)
    node.time.epoch_s += step
    await node.scrub()
    node.time.epoch_s -= step
    node.restart()
    began = node.now
    for _ in range(50):
        node.time.advance(HOUR / 2)
        await node.scrub()
    assert all(began < times[-1] <= began + DAY + HOUR for times in node.reads.values())


def test_needs_are_recorded_after_the_clock_was_set_back(tmp_path: Path, source_dir: Path, chain: Chain) -> None:
    node = Node(tmp_path, source_dir, chain)
    node.time.epoch_s -= HOUR
    node.store.touch([chain[0].digest])
    node.restart()
    assert node.store.held()[chain[0].digest].last_needed_s == START - HOUR
    node.time.advance(SAVE_INTERVAL_S / 2)
    node.store.touch([chain[0].digest])
    node.restart()
    assert node.store.held()[chain[0].digest].last_needed_s == START - HOUR, "not saved each time"


def test_layers_that_were_never_fetched_are_not_recorded(tmp_path: Path, source_dir: Path, chain: Chain) -> None:
    node = Node(tmp_path, source_dir, chain)
    for number in range(100_000):
        node.store.touch([Digest(f"sha256:{number:064x}")])
    assert len(node.store._records.needed_at) == len(chain)
    size = (tmp_path / "state.recent.json").stat().st_size
    for _ in range(100):
        node.time.advance(2 * SAVE_INTERVAL_S)
        node.store.touch([layer.digest for layer in chain])
    assert (tmp_path / "state.recent.json").stat().st_size == size
    for layer in chain:
        assert node.store.evict(layer.digest, ())
    state = json.loads((tmp_path / "state.recent.json").read_text())
    assert [state[key] for key in ("verified", "readAt", "neededAt")] == [{}, {}, {}]


def test_quarantine_keeps_a_few_files_however_long_it_lasts(tmp_path: Path, source_dir: Path, chain: Chain) -> None:
    node = Node(tmp_path, source_dir, chain)
    for _ in range(50):
        node.store.path(chain[0].digest).unlink(missing_ok=True)
        node.store.path(chain[0].digest).write_bytes(b"damaged")
        node.store.quarantine(chain[0].digest)
    assert len(list((tmp_path / "quarantine").iterdir())) <= 4


async def test_layers_are_persisted_after_the_disk_was_full(
    tmp_path: Path, source_dir: Path, chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path, source_dir, chain)
    full = True

    def step(name: str) -> None:
        if full and name == "write state":
            raise OSError(28, "No space left on device")

    node.store._records.unpersisted.add(chain[0].digest)
    node.store._state._step = step
    task = asyncio.create_task(node.filler.run())
    try:
        with caplog.at_level(logging.WARNING):
            await soon(lambda: "layers not persisted" in caplog.text)
        assert not task.done()
        assert node.store.unpersisted() == [chain[0].digest]
        full = False
        await soon(lambda: RETRY_S in node.time.pending())
        node.time.advance(RETRY_S)
        await soon(lambda: node.store.unpersisted() == [])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
