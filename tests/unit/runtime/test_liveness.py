"""/healthz of the operator: stuck loops and reconciles are found; an API server that is away makes none stuck."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest

from kigi import process
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CHILDREN
from kigi.errors import Unreachable
from kigi.handlers.children import ChildWatch
from kigi.handlers.heartbeats import watch_heartbeats
from kigi.mirror.keys import Key
from kigi.mirror.store import Mirror
from kigi.runtime.leader import Election
from kigi.runtime.liveness import LOOP_S, RECONCILE_S, Liveness
from kigi.runtime.ports import Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.fake_time import FakeTime
from tests.support.virtual_time import run_virtually

MINUTE, HOUR = 60.0, 3600.0
KEY, OTHER = Key("instance", "ns", "a"), Key("instance", "other", "b")


def test_a_loop_is_stuck_when_its_next_attempt_does_not_come() -> None:
    time = FakeTime()
    liveness = Liveness(time)
    liveness.beat("lease")
    liveness.beat("resync", LOOP_S + 240)
    time.advance(LOOP_S)
    assert liveness.stuck() == []
    time.advance(1)
    assert liveness.stuck() == ["lease: no attempt for 301 s"]
    liveness.beat("lease")
    assert liveness.stuck() == []
    time.advance(LOOP_S)
    assert liveness.stuck() == ["resync: no attempt for 601 s"]
    liveness.end("resync")
    liveness.end("unknown")
    assert liveness.stuck() == []


async def test_a_loop_whose_task_has_ended_is_not_stuck() -> None:
    """As kopf's watch of a kind that was removed from the cluster."""
    time = FakeTime()
    liveness = Liveness(time)
    task = asyncio.create_task(asyncio.Event().wait())
    liveness.beat("watch", task=task)
    time.advance(LOOP_S + 1)
    assert liveness.stuck() == ["watch: no attempt for 301 s"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert liveness.stuck() == []


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def queue(time: FakeTime) -> WorkQueue:
    return WorkQueue(clock=time, schedule=time.schedule, jitter=lambda: 1.0)


async def running(queue: WorkQueue, work: Callable[[Key], Awaitable[Any]], workers: int = 2) -> asyncio.Task[None]:
    task = asyncio.create_task(queue.run(workers, work))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_reconcile_that_does_not_end_is_found_although_others_go_on(time: FakeTime, queue: WorkQueue) -> None:
    release = asyncio.Event()

    async def work(key: Key) -> None:
        if key == KEY:
            await release.wait()

    task = await running(queue, work)
    queue.add(KEY)
    await asyncio.sleep(0)
    time.advance(RECONCILE_S)
    assert queue.stuck(RECONCILE_S) == []
    queue.add(OTHER)
    for _ in range(5):
        await asyncio.sleep(0)
    time.advance(1)
    assert queue.stuck(RECONCILE_S) == [f"reconcile of {KEY} for 901 s"]
    release.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert queue.stuck(RECONCILE_S) == []
    await cancel(task)


async def test_keys_that_no_worker_takes_are_found(time: FakeTime, queue: WorkQueue) -> None:
    """As after a lost wake-up: here the queue runs without a worker."""

    async def waiting() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(queue.run(1, lambda key: asyncio.sleep(0)))
            await asyncio.sleep(0)
            queue._not_empty = asyncio.Event()  # the worker waits for the former one

    task = asyncio.create_task(waiting())
    for _ in range(5):
        await asyncio.sleep(0)
    time.advance(2 * RECONCILE_S)
    queue.add(KEY)
    assert queue.stuck(RECONCILE_S) == [], "an empty queue was not stuck before"
    time.advance(RECONCILE_S + 1)
    queue.add(OTHER)
    assert queue.stuck(RECONCILE_S) == ["queue: 2 keys wait, and no reconcile began or ended for 900 s"]
    await cancel(task)
    assert queue.stuck(RECONCILE_S) == [], "an operator that does not lead reconciles nothing"


async def test_keys_that_waited_before_the_queue_ran_do_not_count(time: FakeTime, queue: WorkQueue) -> None:
    queue.add(KEY)
    time.advance(RECONCILE_S + 1)
    task = await running(queue, lambda key: asyncio.sleep(0))
    queue.add(OTHER)
    assert queue.stuck(RECONCILE_S) == []
    await cancel(task)


class Away:
    """An API server without objects, whose lease another operator may hold. While ``away``, a request takes 30 s."""

    def __init__(self, holder: str = "") -> None:
        self.away = False
        self.hangs = False
        self.requests = 0
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 30, "renewTime": "0"}
        self.lease: dict[str, Any] = {"metadata": {"name": "kigi-operator"}, "spec": spec}
        self.is_other_alive = bool(holder)

    async def _request(self) -> None:
        self.requests += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            await asyncio.sleep(30)
            raise Unreachable("no answer")
        await asyncio.sleep(0.01)

    async def get(self, *_: object) -> dict[str, Any]:
        await self._request()
        if self.is_other_alive:
            self.lease["spec"]["renewTime"] = str(self.requests)
        return self.lease

    async def replace(self, _: object, lease: dict[str, Any]) -> dict[str, Any]:
        await self._request()
        self.lease = lease
        return lease

    async def list_version(self, *_: object, **__: object) -> tuple[list[Any], str]:
        await self._request()
        return [], "1"

    async def list_all(self, *_: object, **__: object) -> AsyncIterator[dict[str, Any]]:
        await self._request()
        return
        yield {}

    async def watch(self, *_: object, silence_s: float, **__: object) -> AsyncIterator[Any]:
        await self._request()
        await asyncio.sleep(silence_s)
        raise Unreachable("silent")
        yield


async def operating(api: Away, hours: float, during: Callable[[float], None] = lambda _: None) -> list[str]:
    """What /healthz answers each minute, of an operator in virtual time; ``during`` is called with the time in s."""
    clock = asyncio.get_running_loop().time
    ports = Ports(
        cast(KubeClient, api),
        Mirror(clock),
        WorkQueue(clock=clock),
        Settings(identity="me", hook_image="kigi:dev"),
        clock=clock,
        liveness=Liveness(clock),
    )
    attempting = functools.partial(ports.liveness.beat, "lease")
    election = Election(cast(Any, api), namespace="ns", identity="me", lease_s=30.0, clock=clock, attempting=attempting)
    tasks = [
        asyncio.create_task(process._lead(ports, election)),
        asyncio.create_task(watch_heartbeats(ports)),
        *(asyncio.create_task(ChildWatch(ports, resource).run()) for resource in CHILDREN),
    ]
    answers = []
    for minute in range(int(hours * 60)):
        during(minute * MINUTE)
        await asyncio.sleep(MINUTE)
        assert not any(task.done() for task in tasks)
        answers.append(ports.unhealthy())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return answers


@pytest.mark.parametrize("holder", ["", "another"], ids=["leader", "standby"])
def test_an_api_server_that_is_away_for_an_hour_makes_nothing_stuck(holder: str) -> None:
    """A restart would help nothing, and lose the mirror: neither the leader nor the standby is restarted."""
    api = Away(holder)

    def during(now_s: float) -> None:
        api.away = HOUR <= now_s < 2 * HOUR

    answers = run_virtually(lambda: operating(api, 3, during))
    assert len(answers) == 180
    assert set(answers) == {""}


@pytest.mark.parametrize("holder", ["", "another"], ids=["leader", "standby"])
def test_a_client_that_hangs_is_found_within_minutes(holder: str) -> None:
    """As by a bug that loses a request: every loop waits for an answer that nobody will give it."""
    api = Away(holder)

    def during(now_s: float) -> None:
        api.hangs = now_s >= HOUR

    answers = run_virtually(lambda: operating(api, 1.5, during))
    assert set(answers[:60]) == {""}
    assert "lease: no attempt for" in answers[60 + int(LOOP_S / MINUTE) + 1]
    assert "watch of VirtualMachine: no attempt for" in answers[-1]


async def test_both_findings_are_in_the_answer(time: FakeTime, queue: WorkQueue) -> None:
    ports = Ports(cast(KubeClient, None), Mirror(time), queue, Settings(identity="me"), liveness=Liveness(time))
    assert ports.unhealthy() == ""
    ports.liveness.beat("lease")
    task = await running(queue, lambda key: asyncio.Event().wait())
    queue.add(KEY)
    for _ in range(5):
        await asyncio.sleep(0)
    time.advance(RECONCILE_S + 1)
    assert ports.unhealthy() == f"lease: no attempt for 901 s; reconcile of {KEY} for 901 s"
    await cancel(task)
