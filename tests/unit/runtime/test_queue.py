from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from kigi.mirror.keys import Key
from kigi.runtime.queue import BACKOFF_MOST_S, WorkQueue

A, B = Key("deployment", "ns", "a"), Key("deployment", "ns", "b")


async def run_until_idle(queue: WorkQueue, work: Callable[[Key], Awaitable[None]], workers: int = 4) -> None:
    running = asyncio.create_task(queue.run(workers, work))
    async with asyncio.timeout(5):
        while not queue.idle:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_many_wakings_are_one_pass() -> None:
    queue, passes = WorkQueue(), []

    async def work(key: Key) -> None:
        passes.append(key)

    for _ in range(100):
        queue.add(A)
        queue.add(B)
    await run_until_idle(queue, work)
    assert sorted(passes) == [A, B]


async def test_a_key_is_never_worked_on_twice_at_once() -> None:
    queue = WorkQueue()
    active: set[Key] = set()
    passes = 0

    async def work(key: Key) -> None:
        nonlocal passes
        assert key not in active
        active.add(key)
        if passes < 20:
            queue.add(key)
        passes += 1
        await asyncio.sleep(0)
        active.discard(key)

    queue.add(A)
    await run_until_idle(queue, work)
    assert passes == 21


async def test_a_waking_during_a_pass_makes_one_more() -> None:
    queue, started, go_on = WorkQueue(), asyncio.Event(), asyncio.Event()
    passes = 0

    async def work(key: Key) -> None:
        nonlocal passes
        passes += 1
        started.set()
        await go_on.wait()

    queue.add(A)
    running = asyncio.create_task(run_until_idle(queue, work))
    await started.wait()
    for _ in range(5):
        queue.add(A)
    go_on.set()
    await running
    assert passes == 2


async def test_different_keys_are_worked_on_at_once_up_to_the_number_of_workers() -> None:
    queue = WorkQueue()
    active = most = 0

    async def work(key: Key) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.01)
        active -= 1

    for number in range(20):
        queue.add(Key("image", "ns", str(number)))
    await run_until_idle(queue, work, workers=3)
    assert most == 3


async def test_the_earliest_of_several_times_counts() -> None:
    queue, woken = WorkQueue(), asyncio.Event()

    async def work(key: Key) -> None:
        woken.set()

    running = asyncio.create_task(queue.run(1, work))
    queue.add_after(A, 30)
    queue.add_after(A, 0.01)
    queue.add_after(A, 60)
    await asyncio.wait_for(woken.wait(), 2)
    running.cancel()


async def test_backoff_doubles_up_to_a_bound_and_starts_anew_after_success() -> None:
    queue = WorkQueue(jitter=lambda: 1.0)
    delays = [queue.backoff(A) for _ in range(12)]
    assert delays[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert delays[-1] == BACKOFF_MOST_S
    queue.succeeded(A)
    assert queue.backoff(A) == pytest.approx(0.2)
    assert queue.backoff(B) == pytest.approx(0.2)


async def test_a_cleared_queue_is_idle_and_its_timers_are_off() -> None:
    queue = WorkQueue()
    queue.add(A)
    queue.add_after(B, 0.01)
    queue.clear()
    await asyncio.sleep(0.03)
    assert queue.idle


async def test_an_error_that_escapes_ends_the_queue() -> None:
    queue = WorkQueue()

    async def work(key: Key) -> None:
        raise RuntimeError("bug in the worker itself")

    queue.add(A)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(queue.run(2, work), 2)
