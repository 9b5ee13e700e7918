"""The filler with a scripted source, in manual time: what is fetched again, what is refused, and when."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kigi.domain.layers import Chain, Digest, Layer
from kigi.errors import BudgetExceeded, KigiError, LayerNotInRepository, NoRoom
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import RECHECK_S
from kigi_cache.layers.retry import RetryPolicy
from kigi_cache.layers.store import Store
from tests.support.layers import make_chain, wanted
from tests.support.scripted_fills import PIECE, ScriptedSource, running, soon
from tests.support.stored import without_records

MIB = 2**20


@pytest.fixture(scope="module")
def source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


@pytest.fixture(scope="module")
def chain(source_dir: Path) -> Chain:
    return make_chain(source_dir, 1, 4 * MIB)


@pytest.fixture(scope="module")
def small(source_dir: Path) -> Chain:
    """Three layers of less than a piece each."""
    return make_chain(source_dir, 3, 64 * 1024, seed=1)


@pytest.fixture
def source(source_dir: Path) -> ScriptedSource:
    return ScriptedSource(source_dir)


async def test_a_layer_requested_again_while_its_transfer_stops_continues_from_there(
    tmp_path: Path, source: ScriptedSource, chain: Chain
) -> None:
    async with running(tmp_path, source) as run:
        filler = run.filler
        filler.want(wanted(chain))
        await soon(lambda: filler.available_bytes(chain[0].digest) == PIECE)
        filler.want([])
        requested_again = asyncio.create_task(filler.ensure(chain))
        await asyncio.sleep(0)
        source.go_on.set()
        await asyncio.wait_for(requested_again, 10)
        assert filler.store.is_held(chain[0].digest)
        first, again = source.starts
        assert (first, again > 0) == (0, True)


async def test_a_layer_that_is_no_longer_wanted_leaves_no_partial_file(
    tmp_path: Path, source: ScriptedSource, chain: Chain
) -> None:
    async with running(tmp_path, source) as run:
        run.filler.want(wanted(chain))
        await soon(lambda: run.filler.available_bytes(chain[0].digest) == PIECE)
        run.filler.want([])
        source.go_on.set()
        await soon(lambda: run.filler.snapshot().layers == [])
        assert run.filler.store.parts() == []


async def test_a_layer_that_is_refused_again_and_again_is_fetched_ever_less_often(
    tmp_path: Path, source: ScriptedSource, chain: Chain
) -> None:
    """Each attempt transfers the whole layer for nothing."""
    source.go_on.set()
    larger = replace(chain[0], virtual_size_bytes=chain[0].virtual_size_bytes * 2)
    retry = RetryPolicy(first_s=1.0, max_s=1.0, max_damaged_s=20.0, min_action_s=0.0, jitter=0.0)
    async with running(tmp_path, source, retry=retry) as run:
        run.filler.want(wanted((larger,)))
        for attempt, delay_s in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0], 1):
            retry_at_s = run.time.now_s + delay_s
            await soon(lambda at=retry_at_s: at in run.time.pending())  # type: ignore[misc]
            assert len(source.starts) == attempt
            (layer,) = run.filler.snapshot().layers
            assert (layer.state, layer.reason) == ("Refused", "LayerRefused")
            run.time.advance(delay_s)
        await soon(lambda: len(source.starts) == 8)
        assert [error.reason for _, error in run.errors] == ["LayerRefused"], "reported once"
        run.filler.want(wanted(chain))
        await run.until("Held", *chain)


async def test_a_transient_error_is_retried_within_the_shorter_limit(
    tmp_path: Path, source: ScriptedSource, chain: Chain
) -> None:
    source.go_on.set()
    source.faults[chain[0].digest] = LayerNotInRepository("not published yet")
    async with running(tmp_path, source, retry=RetryPolicy(first_s=4.0, max_s=6.0, jitter=0.0)) as run:
        run.filler.want(wanted(chain))
        for delay_s in (4.0, 6.0, 6.0):
            retry_at_s = run.time.now_s + delay_s
            await soon(lambda at=retry_at_s: at in run.time.pending())  # type: ignore[misc]
            run.time.advance(delay_s)
        source.faults.clear()
        await soon(lambda: len(source.starts) == 4)
        run.time.advance(6.0)
        await run.until("Held", *chain)


async def test_a_volume_that_needs_a_refused_layer_does_not_wait_for_its_retry(
    tmp_path: Path, source: ScriptedSource, chain: Chain
) -> None:
    source.go_on.set()
    source.faults[chain[0].digest] = LayerNotInRepository("not published yet")
    async with running(tmp_path, source) as run:
        run.filler.want(wanted(chain))
        await run.until("Refused", *chain)
        with pytest.raises(LayerNotInRepository):
            await run.filler.ensure(chain)
        source.faults.clear()
        await asyncio.wait_for(run.filler.ensure(chain), 10)
        assert run.time.now_s == 0.0


async def test_an_unexpected_fault_of_one_layer_ends_no_other(
    tmp_path: Path, source: ScriptedSource, small: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    source.go_on.set()
    source.faults[small[1].digest] = ZeroDivisionError("a bug")
    async with running(tmp_path, source) as run:
        with caplog.at_level(logging.ERROR):
            run.filler.want(wanted(small))
            await soon(lambda: sorted(run.states().values()) == ["Held", "Held", "Refused"])
        ((digest, error),) = run.errors
        assert (digest, type(error)) == (small[1].digest, KigiError)
        assert "ZeroDivisionError: a bug" in str(error)
        assert [record.message for record in caplog.records] == ["fetch failed"]
        assert caplog.records[0].exc_info is not None
        source.faults.clear()
        await soon(lambda: 1.0 in run.time.pending())
        run.time.advance(1.0)
        await run.until("Held", *small)


async def test_an_error_of_the_disk_asks_for_space(tmp_path: Path, source: ScriptedSource, chain: Chain) -> None:
    source.faults[chain[0].digest] = OSError(28, "No space left on device")
    async with running(tmp_path, source) as run:
        with pytest.raises(NoRoom, match="No space left on device; free some space"):
            await run.filler.ensure(chain)


async def test_the_source_learns_whether_its_bytes_were_right(
    tmp_path: Path, source_dir: Path, source: ScriptedSource, small: Chain
) -> None:
    source.go_on.set()
    wrong = replace(small[1], size_bytes=small[1].size_bytes - 1)
    async with running(tmp_path, source) as run:
        run.filler.want(wanted((small[0], wrong)))
        await soon(lambda: sorted(run.states().values()) == ["Held", "Refused"])
        assert (source.finished, source.distrusted) == ([small[0].digest], [small[1].digest])
        assert run.filler.store.parts() == [], "which of its bytes are wrong is unknown"


async def test_a_chain_that_does_not_fit_is_refused_before_a_byte_moves(
    tmp_path: Path, source: ScriptedSource, chain: Chain
) -> None:
    async with running(tmp_path, source, budget=Budget(MIB)) as run:
        with pytest.raises(BudgetExceeded):
            await run.filler.ensure(chain)
        assert source.starts == []


async def test_prefetches_leave_transfers_to_disks(tmp_path: Path, source: ScriptedSource, small: Chain) -> None:
    async with running(tmp_path, source, max_transfers=2, max_prefetches=1) as run:
        prefetched = wanted(small[:2], "Prefetch")
        run.filler.want(prefetched)
        await soon(lambda: sorted(run.states().values()) == ["Fetching", "Queued"])
        run.filler.want([*prefetched, *wanted(small[2:])])
        await soon(lambda: run.states()[small[2].digest] == "Fetching")
        assert sorted(run.states().values()) == ["Fetching", "Fetching", "Queued"]
        source.go_on.set()
        await run.until("Held", *small)


async def test_a_layer_that_vanishes_is_noticed_by_the_next_check_and_fetched_again(
    tmp_path: Path, source: ScriptedSource, small: Chain
) -> None:
    source.go_on.set()
    async with running(tmp_path, source) as run:
        run.filler.want(wanted(small))
        await run.until("Held", *small)
        await soon(lambda: run.time.pending() == [RECHECK_S])
        run.filler.store.path(small[1].digest).unlink()
        run.time.advance(RECHECK_S)
        await run.until("Held", *small)
        assert [(digest, error.reason) for digest, error in run.errors] == [(small[1].digest, "LayerCorrupt")]
        assert source.starts == [0, 0, 0, 0]


async def test_layers_that_are_verified_after_a_power_cut_are_recorded_as_persisted(
    tmp_path: Path, source: ScriptedSource, small: Chain
) -> None:
    """Else each further boot reads all of them again."""
    source.go_on.set()
    async with running(tmp_path / "before", source) as run:
        run.filler.want(wanted(small))
        await run.until("Held", *small)
    root = without_records(tmp_path / "before", tmp_path / "after")
    async with running(root, source) as run:
        await run.until("Held", *small)
        await soon(lambda: run.filler.store.unpersisted() == [])
    assert Store(root, boot="the next one").recover() == []


async def test_progress_is_described_in_one_line(tmp_path: Path, source: ScriptedSource, small: Chain) -> None:
    source.go_on.set()
    source.faults[small[2].digest] = LayerNotInRepository("publish it")
    async with running(tmp_path, source) as run:
        run.filler.want(wanted(small))
        await soon(lambda: sorted(run.states().values()) == ["Held", "Held", "Refused"])
        assert run.filler.describe(small).startswith("2 of 3 layers (")
        assert run.filler.describe(small).endswith("; publish it")


async def test_sizes_are_known_of_layers_that_are_held_or_on_their_way(
    tmp_path: Path, source: ScriptedSource, chain: Chain, small: Chain
) -> None:
    source.faults[small[0].digest] = LayerNotInRepository("publish it")
    async with running(tmp_path, source) as run:
        filler, layer = run.filler, chain[0]
        filler.want([*wanted(chain), *wanted(small[:1])])
        await soon(lambda: filler.available_bytes(layer.digest) == PIECE)
        assert filler.size_of(layer.digest) == layer.size_bytes
        await soon(lambda: run.states()[small[0].digest] == "Refused")
        assert (filler.size_of(small[0].digest), filler.available_bytes(small[0].digest)) == (None, None)
        assert filler.size_of(small[1].digest) is None
        source.go_on.set()
        await soon(lambda: filler.store.is_held(layer.digest))
        assert filler.size_of(layer.digest) == filler.available_bytes(layer.digest) == layer.size_bytes


async def test_without_records_the_first_fetch_does_not_wait_for_the_layers_that_are_read_again(
    tmp_path: Path, source: ScriptedSource, small: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.go_on.set()
    async with running(tmp_path / "before", source) as run:
        run.filler.want(wanted(small[:2]))
        await run.until("Held", *small[:2])
    root = without_records(tmp_path / "before", tmp_path / "after")
    go_on, verify = threading.Event(), Store.verify

    def slow(store: Store, layer: Layer, *args: Any, **kwargs: Any) -> bool:
        assert go_on.wait(30)
        return verify(store, layer, *args, **kwargs)

    monkeypatch.setattr(Store, "verify", slow)
    async with running(root, source) as run:
        run.filler.want(wanted(small))
        await soon(lambda: run.states().get(small[2].digest) == "Held")
        assert [run.states()[layer.digest] for layer in small[:2]] == ["Queued", "Queued"]
        go_on.set()
        await run.until("Held", *small)
    assert len(source.starts) == 3, "they were read from the disk"


async def test_a_fill_loop_that_fails_starts_again(
    tmp_path: Path, source: ScriptedSource, small: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.go_on.set()
    failures = iter([OSError(28, "No space left on device"), ValueError("a bug")])
    damaged = Store.damaged

    def failing(store: Store) -> list[Digest]:
        for failure in failures:
            raise failure
        return damaged(store)

    monkeypatch.setattr(Store, "damaged", failing)
    async with running(tmp_path, source) as run:
        run.filler.want(wanted(small))
        for _ in range(2):
            await soon(lambda: any(run.time.now_s < end_s < run.time.now_s + 2 for end_s in run.time.pending()))
            run.time.advance(2)
        await run.until("Held", *small)
