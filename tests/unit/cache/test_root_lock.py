"""One daemon for each cache."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from kigi_cache.root_lock import CHECK_S, WAIT_S, CacheInUse, RootLock
from tests.support.manual_clock import ManualClock


async def test_a_second_one_waits_for_the_first_and_gives_up(tmp_path: Path) -> None:
    time = ManualClock()
    first, second = RootLock(tmp_path), RootLock(tmp_path)
    await first.acquire(time.clock)
    waiting = asyncio.ensure_future(second.acquire(time.clock))
    for _ in range(round(WAIT_S / CHECK_S)):
        assert await time.next_wake() == time.now_s + CHECK_S
        time.advance(CHECK_S)
        await asyncio.sleep(0.001)
    with pytest.raises(CacheInUse, match="KIGI_CACHE_ROOT"):
        await waiting
    second.release()


async def test_the_second_one_follows_when_the_first_ends(tmp_path: Path) -> None:
    time = ManualClock()
    first, second = RootLock(tmp_path), RootLock(tmp_path)
    await first.acquire(time.clock)
    waiting = asyncio.ensure_future(second.acquire(time.clock))
    assert await time.next_wake() == CHECK_S
    first.release()
    time.advance(CHECK_S)
    await waiting
    second.release()


async def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    program = "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, 2); os.kill(os.getpid(), 9)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path))
    assert await process.wait() == -9
    lock = RootLock(tmp_path)
    await lock.acquire(ManualClock().clock)
    lock.release()


async def test_a_missing_root_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await RootLock(tmp_path / "none").acquire(ManualClock().clock)
