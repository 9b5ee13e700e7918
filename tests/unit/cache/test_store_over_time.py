"""The cache over weeks: what is read again, what is remembered, and what a wrong clock does to it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from pathlib import Path

import pytest

from kigi.domain.layers import Chain, Digest, digest_hex
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import SAVE_NEEDED_S, Store
from tests.support.cluster import eventually_async
from tests.support.layers import make_chain

HOUR, DAY = 3600.0, 86_400.0
START = 1_800_000_000.0


class Nothing:
    """A source that is never asked."""

    def read(self, layer: object, start: int) -> object:
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
    """A cache whose machine has a clock of its own, and whose daemon may be restarted."""

    def __init__(self, root: Path, source_dir: Path, chain: Chain) -> None:
        self.root, self.now = root, START
        self.reads = {layer.digest: [START] for layer in chain}
        self.restart()
        for layer in chain:
            part = self.store.part_path(layer.digest)
            part.write_bytes((source_dir / f"{digest_hex(layer.digest)}.qcow2").read_bytes())
            self.store.commit(layer, digest_hex(layer.digest))
            assert self.store.settle(layer.digest)

    def restart(self) -> None:
        self.store = Store(self.root, clock=lambda: self.now)
        assert self.store.recover() == []
        self.filler = Filler(self.store, Nothing(), Budget(2**40))  # type: ignore[arg-type]

    async def scrub(self) -> None:
        due = self.store.read_before(self.now - DAY)
        assert await self.filler.scrub(DAY) == []
        for digest in due:
            self.reads[digest].append(self.now)


async def test_every_layer_is_read_daily_for_three_weeks_with_a_daemon_that_is_restarted(
    tmp_path: Path, source_dir: Path, chain: Chain
) -> None:
    node = Node(tmp_path, source_dir, chain)
    for look in range(21 * 48):  # each half hour: SCRUB_LOOKS_PER_INTERVAL
        node.now += HOUR / 2
        if look % 7 == 0:
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
    """As on a machine that starts without a battery, before NTP has set its clock."""
    node = Node(tmp_path, source_dir, chain)
    node.now += DAY + step
    await node.scrub()
    node.now -= step
    node.restart()
    began = node.now
    for _ in range(50):
        node.now += HOUR / 2
        await node.scrub()
    assert all(began < times[-1] <= began + DAY + HOUR for times in node.reads.values())


def test_what_is_needed_is_noted_after_the_clock_was_set_back(tmp_path: Path, source_dir: Path, chain: Chain) -> None:
    node = Node(tmp_path, source_dir, chain)
    node.now -= HOUR
    node.store.touch([chain[0].digest])
    node.restart()
    assert node.store.held()[chain[0].digest].last_needed_s == START - HOUR
    node.now += SAVE_NEEDED_S / 2
    node.store.touch([chain[0].digest])
    node.restart()
    assert node.store.held()[chain[0].digest].last_needed_s == START - HOUR, "not saved each time"


def test_layers_that_never_came_are_not_remembered(tmp_path: Path, source_dir: Path, chain: Chain) -> None:
    node = Node(tmp_path, source_dir, chain)
    for number in range(100_000):
        node.store.touch([Digest(f"sha256:{number:064x}")])
    assert len(node.store._needed) == len(chain)
    size = (tmp_path / "state.json").stat().st_size
    for _ in range(100):
        node.now += 2 * SAVE_NEEDED_S
        node.store.touch([layer.digest for layer in chain])
    assert (tmp_path / "state.json").stat().st_size == size
    for layer in chain:
        assert node.store.evict(layer.digest, ())
    state = json.loads((tmp_path / "state.json").read_text())
    assert [state[key] for key in ("verified", "readAt", "neededAt")] == [{}, {}, {}]


def test_quarantine_keeps_a_few_files_for_ever(tmp_path: Path, source_dir: Path, chain: Chain) -> None:
    node = Node(tmp_path, source_dir, chain)
    for _ in range(50):
        node.store.path(chain[0].digest).unlink(missing_ok=True)
        node.store.path(chain[0].digest).write_bytes(b"damaged")
        node.store.quarantine(chain[0].digest)
    assert len(list((tmp_path / "quarantine").iterdir())) <= 4


async def test_layers_are_settled_while_transfers_run_for_hours(
    tmp_path: Path, source_dir: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kigi_cache.layers.filler.SETTLE_AFTER_S", 0.2)
    node = Node(tmp_path, source_dir, chain)
    node.filler._running[chain[1].digest] = asyncio.ensure_future(asyncio.sleep(0))
    node.store._unsettled.add(chain[0].digest)
    task = asyncio.create_task(node.filler._settle())
    await eventually_async(lambda: node.store.unsettled() == [], 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_settling_goes_on_after_the_disk_was_full(
    tmp_path: Path,
    source_dir: Path,
    chain: Chain,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("kigi_cache.layers.filler.SETTLE_RETRY_S", 0.02)
    node = Node(tmp_path, source_dir, chain)
    full = True

    def step(name: str) -> None:
        if full and name == "write state":
            raise OSError(28, "No space left on device")

    node.store._unsettled.add(chain[0].digest)
    node.store._step = step
    task = asyncio.create_task(node.filler.run())
    try:
        with caplog.at_level(logging.WARNING):
            await eventually_async(lambda: "layers not settled" in caplog.text)
        assert not task.done()
        assert node.store.unsettled() == [chain[0].digest]
        full = False
        await eventually_async(lambda: node.store.unsettled() == [])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
