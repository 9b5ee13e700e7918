"""What the daemon does again and again beside its work."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kigi.api.repositories import Repositories
from kigi.domain.layers import Digest
from kigi_cache import metrics
from kigi_cache.periodic import REPOSITORIES_CHECK_S, SCRUB_CHECKS_PER_INTERVAL, follow_repositories, scrub_layers
from tests.support.manual_clock import EPOCH_S, ManualClock


@asynccontextmanager
async def running(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def check(time: ManualClock) -> None:
    """The next check begins and ends."""
    time.advance(await time.next_wake() - time.now_s)
    await time.next_wake()


def write(folder: Path, name: str, bucket: str) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"endpoint": "http://s3.example", "bucket": bucket}))


async def test_repositories_are_used_when_a_file_changes(tmp_path: Path) -> None:
    time, used = ManualClock(), list[Repositories]()
    write(tmp_path, "main", "first")
    async with running(follow_repositories(tmp_path, used.append, time.clock)):
        assert await time.next_wake() == REPOSITORIES_CHECK_S
        await check(time)
        assert used == [], "no file has changed since the start"
        write(tmp_path, "main", "second")
        await check(time)
        await check(time)
        write(tmp_path, "other", "third")
        await check(time)
        (tmp_path / "main.json").unlink()
        await check(time)
    found = [{name: each.bucket for name, each in settings.repositories.items()} for settings in used]
    assert found == [{"main": "second"}, {"main": "second", "other": "third"}, {"other": "third"}]


async def test_an_invalid_file_is_left_out_and_stops_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    time, used = ManualClock(), list[Repositories]()
    async with running(follow_repositories(tmp_path / "mounted", used.append, time.clock)):
        await time.next_wake()
        (tmp_path / "mounted").mkdir()
        write(tmp_path / "mounted", "main", "first")
        (tmp_path / "mounted" / "bad.json").write_text("nonsense")
        with caplog.at_level(logging.WARNING):
            await check(time)
    assert [list(found.repositories) for found in used] == [["main"]]
    assert {record.message for record in caplog.records} == {"repository ignored"}


async def test_without_a_folder_there_is_nothing_to_follow() -> None:
    await follow_repositories(None, lambda found: None, ManualClock().clock)


class Scrubber:
    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []
        self.damaged: list[Digest] = []

    async def scrub(self, older_than_s: float, bytes_per_s: float) -> list[Digest]:
        self.calls.append((older_than_s, bytes_per_s))
        return self.damaged


async def test_layers_are_checked_many_times_in_each_interval(caplog: pytest.LogCaptureFixture) -> None:
    time, scrubber = ManualClock(), Scrubber()
    async with running(scrub_layers(scrubber, 4800.0, 7.0, time.clock)):
        assert await time.next_wake() == 4800.0 / SCRUB_CHECKS_PER_INTERVAL
        await check(time)
        assert metrics.REGISTRY.get_sample_value("kigi_cache_scrub_finished_seconds") == EPOCH_S + 100
        scrubber.damaged = [Digest("sha256:" + "1" * 64)]
        with caplog.at_level(logging.WARNING):
            await check(time)
    assert scrubber.calls == [(4800.0, 7.0)] * 2
    assert [record.message for record in caplog.records] == ["damaged layers found"]


async def test_an_interval_of_nothing_turns_scrubbing_off() -> None:
    scrubber = Scrubber()
    await scrub_layers(scrubber, 0.0, 7.0, ManualClock().clock)
    assert scrubber.calls == []
