"""What the daemon does again and again beside its work."""

from __future__ import annotations

import asyncio
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

SETTINGS = "repositories: {default: {endpoint: 'http://s3.example', bucket: %s}}"


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


async def test_repositories_are_used_when_their_file_changes(tmp_path: Path) -> None:
    path, time, used = tmp_path / "repositories.yaml", ManualClock(), list[Repositories]()
    path.write_text(SETTINGS % "first")
    async with running(follow_repositories(path, used.append, time.clock)):
        assert await time.next_wake() == REPOSITORIES_CHECK_S
        await check(time)
        assert used == [], "the file has not changed since the start"
        path.write_text(SETTINGS % "second")
        await check(time)
        await check(time)
    assert [found.get("default").bucket for found in used] == ["second"]


async def test_an_invalid_or_missing_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, time, used = tmp_path / "repositories.yaml", ManualClock(), list[Repositories]()
    path.write_text(SETTINGS % "first")
    async with running(follow_repositories(path, used.append, time.clock)):
        await time.next_wake()
        with caplog.at_level(logging.WARNING):
            path.write_text("repositories: nonsense")
            await check(time)
            path.unlink()
            await check(time)
        path.write_text(SETTINGS % "second")
        await check(time)
    assert [found.get("default").bucket for found in used] == ["second"]
    assert {record.message for record in caplog.records} == {"repositories.yaml ignored"}


async def test_without_a_file_there_is_nothing_to_follow() -> None:
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
