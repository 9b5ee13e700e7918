"""The work queue with a clock that the test advances."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from kigi.mirror.keys import Key
from kigi.runtime.queue import BACKOFF_LONGEST_S, COOLDOWN_LONGEST_S, WorkQueue
from tests.support.fake_time import FakeTime

A, B = Key("deployment", "ns", "a"), Key("deployment", "ns", "b")


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def queue(time: FakeTime) -> WorkQueue:
    return WorkQueue(clock=time, schedule=time.schedule, jitter=lambda: 1.0)


async def run_until_idle(queue: WorkQueue, work: Callable[[Key], Awaitable[None]], workers: int = 4) -> None:
    running = asyncio.create_task(queue.run(workers, work))
    async with asyncio.timeout(5):
        while not queue.idle:  # noqa: ASYNC110
            await asyncio.sleep(0)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


class Recorder:
    """Work that records its keys."""

    def __init__(self) -> None:
        self.keys: list[Key] = []

    async def __call__(self, key: Key) -> None:
        self.keys.append(key)


async def test_many_requests_for_a_key_are_one_reconcile(queue: WorkQueue) -> None:
    work = Recorder()
    for _ in range(100):
        queue.add(A)
        queue.add(B)
    await run_until_idle(queue, work)
    assert sorted(work.keys) == [A, B]


async def test_a_key_is_never_reconciled_by_two_workers(queue: WorkQueue) -> None:
    active: set[Key] = set()
    count = 0

    async def work(key: Key) -> None:
        nonlocal count
        assert key not in active
        active.add(key)
        if count < 20:
            queue.add(key)
        count += 1
        await asyncio.sleep(0)
        active.discard(key)

    queue.add(A)
    await run_until_idle(queue, work)
    assert count == 21


async def test_requests_during_a_reconcile_make_one_more(queue: WorkQueue) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    count = 0

    async def work(key: Key) -> None:
        nonlocal count
        count += 1
        started.set()
        await go_on.wait()

    queue.add(A)
    running = asyncio.create_task(run_until_idle(queue, work))
    await started.wait()
    for _ in range(5):
        queue.add(A)
    go_on.set()
    await running
    assert count == 2


@pytest.mark.parametrize(
    ("took_s", "cooldown_s"),
    [
        pytest.param(0.01, 0.0, id="short"),
        pytest.param(0.5, 0.5, id="as-long-as-it-took"),
        pytest.param(30.0, COOLDOWN_LONGEST_S, id="long"),
    ],
)
async def test_a_key_that_was_enqueued_meanwhile_cools_down(
    queue: WorkQueue, time: FakeTime, took_s: float, cooldown_s: float
) -> None:
    count = 0

    async def work(key: Key) -> None:
        nonlocal count
        count += 1
        if count == 1:
            time.now += took_s
            queue.add(key)

    queue.add(A)
    await run_until_idle(queue, work)
    if cooldown_s:
        assert (count, time.pending) == (1, [pytest.approx(cooldown_s)])
        time.advance(cooldown_s)
        await run_until_idle(queue, work)
    assert (count, time.pending) == (2, [])


async def test_different_keys_are_reconciled_in_parallel_up_to_the_number_of_workers(queue: WorkQueue) -> None:
    active = most = 0

    async def work(key: Key) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        for _ in range(10):
            await asyncio.sleep(0)
        active -= 1

    for number in range(20):
        queue.add(Key("image", f"ns{number % 2}", str(number)))
    await run_until_idle(queue, work, workers=3)
    assert most == 3


async def test_the_earliest_of_several_delays_wins(queue: WorkQueue, time: FakeTime) -> None:
    work = Recorder()
    queue.add_after(A, 30)
    queue.add_after(A, 5)
    queue.add_after(A, 60)
    assert time.pending == [5]
    time.advance(4.9)
    assert queue.idle
    time.advance(0.1)
    await run_until_idle(queue, work)
    time.advance(100)
    assert (work.keys, queue.idle) == ([A], True)


async def test_a_request_for_now_replaces_a_delayed_one(queue: WorkQueue, time: FakeTime) -> None:
    work = Recorder()
    queue.add_after(A, 30)
    queue.add_after(A, 0)
    assert time.pending == []
    await run_until_idle(queue, work)
    assert work.keys == [A]


async def test_a_queued_key_needs_no_timer(queue: WorkQueue, time: FakeTime) -> None:
    queue.add(A)
    queue.add_after(A, 1)
    assert time.pending == []


async def test_backoff_doubles_up_to_a_bound_and_begins_again_after_success(queue: WorkQueue) -> None:
    delays = [queue.backoff(A) for _ in range(12)]
    assert delays[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert delays[-1] == BACKOFF_LONGEST_S
    assert [queue.backoff(A) for _ in range(100)][-1] == BACKOFF_LONGEST_S
    queue.succeeded(A)
    assert queue.backoff(A) == pytest.approx(0.2)
    assert queue.backoff(B) == pytest.approx(0.2)


async def test_a_cleared_queue_is_idle_and_has_no_timers(queue: WorkQueue, time: FakeTime) -> None:
    queue.add(A)
    queue.add_after(B, 1)
    queue.clear()
    time.advance(10)
    assert queue.idle


async def test_timers_of_the_event_loop_are_the_default() -> None:
    queue, called = WorkQueue(), asyncio.Event()

    async def work(key: Key) -> None:
        called.set()

    running = asyncio.create_task(queue.run(1, work))
    queue.add_after(A, 0.001)
    await asyncio.wait_for(called.wait(), 5)
    running.cancel()


async def test_an_error_that_escapes_ends_the_queue(queue: WorkQueue) -> None:
    async def work(key: Key) -> None:
        raise RuntimeError("bug in the worker itself")

    queue.add(A)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(queue.run(2, work), 2)


async def test_namespaces_take_turns(queue: WorkQueue) -> None:
    work = Recorder()
    for number in range(50):
        queue.add(Key("image", "many", str(number)))
    queue.add(Key("image", "few", "a"))
    queue.add(Key("image", "few", "b"))
    await run_until_idle(queue, work, workers=1)
    assert [key.namespace for key in work.keys[:5]] == ["many", "few", "many", "few", "many"]
    assert [key.name for key in work.keys if key.namespace == "many"] == [str(number) for number in range(50)]


async def test_no_namespace_occupies_all_workers(queue: WorkQueue) -> None:
    release, active = asyncio.Event(), Recorder()

    async def work(key: Key) -> None:
        await active(key)
        if key.namespace == "slow":
            await release.wait()

    running = asyncio.create_task(queue.run(4, work))
    for number in range(20):
        queue.add(Key("image", "slow", str(number)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(active.keys) == 3
    queue.add(Key("image", "other", "a"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert active.keys[-1] == Key("image", "other", "a")
    release.set()
    for _ in range(100):
        await asyncio.sleep(0)
    assert queue.idle
    assert len(active.keys) == 21
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
