"""What follows a reconcile: its result or its error decides when the next one is."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.errors import (
    Conflict,
    Forbidden,
    KigiError,
    LayerCorrupt,
    LostLeadership,
    SpecInvalid,
    Throttled,
    Unreachable,
    Waiting,
)
from kigi.mirror.keys import Key
from kigi.mirror.store import Mirror
from kigi.reconcilers import RECONCILERS, STALLED_RETRY_S, retry_delay, work
from kigi.runtime.ports import Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.fake_time import FakeTime
from tests.support.memory_api import MemoryApi, memory_ports

KEY = Key("image", "ns", "a")


def ports(time: FakeTime) -> Ports:
    queue = WorkQueue(clock=time, schedule=time.schedule, jitter=lambda: 1.0)
    return Ports(cast("KubeClient", None), Mirror(), queue, Settings(), clock=time)


async def run(time: FakeTime, result: float | Exception | None) -> list[float]:
    """Delays of the queue's timers after a reconcile with that result."""

    async def reconcile(ports: Ports, key: Key) -> float | None:
        if isinstance(result, Exception):
            raise result
        return result

    await work(ports(time), KEY, {"image": reconcile})
    return time.pending


@pytest.mark.parametrize(
    ("result", "delays"),
    [
        pytest.param(None, [], id="a-trigger-enqueues-it"),
        pytest.param(30.0, [30.0], id="again-later"),
        pytest.param(Unreachable("x"), [0.2], id="backoff"),
        pytest.param(SpecInvalid("x"), [STALLED_RETRY_S], id="a-person-must-act"),
        pytest.param(RuntimeError("bug"), [0.2], id="a-bug"),
    ],
)
async def test_the_result_decides_when_the_key_is_reconciled_again(
    result: float | Exception | None, delays: list[float]
) -> None:
    assert await run(FakeTime(), result) == pytest.approx(delays)


@pytest.mark.parametrize(
    ("error", "backoff_s", "delay_s"),
    [
        (Unreachable("x"), 0.4, 0.4),
        (Throttled("x"), 60.0, 60.0),
        (LayerCorrupt("x"), 1.6, 1.6),
        (Waiting("x"), 12.8, 12.8),
        (Conflict("x"), 0.1, 0.2),
        (Conflict("x"), 1.6, 1.6),
        (Conflict("x"), 60.0, 5.0),
        (LostLeadership("x"), 0.8, 0.8),
        (Forbidden("x"), 0.2, 60.0),
        (SpecInvalid("x"), 66.0, 66.0),
    ],
)
def test_the_class_of_an_error_decides_the_delay(error: KigiError, backoff_s: float, delay_s: float) -> None:
    assert retry_delay(error, backoff_s) == delay_s


async def test_failures_back_off_and_a_success_ends_that() -> None:
    time = FakeTime()
    made = ports(time)
    results: list[Exception | None] = [Unreachable("x"), Unreachable("x"), None, Unreachable("x")]
    delays: list[list[float]] = []

    async def reconcile(ports: Ports, key: Key) -> float | None:
        result = results.pop(0)
        if result is not None:
            raise result
        return None

    running = asyncio.create_task(made.queue.run(1, lambda key: work(made, key, {"image": reconcile})))
    async with asyncio.timeout(5):
        while results:
            made.queue.add(KEY)
            while not made.queue.idle:  # noqa: ASYNC110
                await asyncio.sleep(0)
            delays.append(time.pending)
    running.cancel()
    assert delays == [[pytest.approx(0.2)], [pytest.approx(0.4)], [], [pytest.approx(0.2)]]


async def test_a_bug_in_one_object_escapes_from_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    await run(FakeTime(), KeyError("field"))
    assert any(record.exc_info and record.levelname == "ERROR" for record in caplog.records)


async def test_every_kind_of_key_has_a_reconciler_that_accepts_an_unknown_object() -> None:
    """An object that is gone by the time its key is reconciled ends quietly."""
    for kind in RECONCILERS:
        await RECONCILERS[kind](memory_ports(MemoryApi()), Key(kind, "ns", "gone"))
