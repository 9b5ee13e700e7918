"""The operator over days: leadership, retries, events, and what stays in memory when objects come and go."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from kigi import process as operator_process
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import DEPLOYMENT
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest
from kigi.errors import Conflict, KigiError, LostLeadership, SpecInvalid, Unreachable
from kigi.gather.nodes import gather_nodes
from kigi.mirror.keys import Key
from kigi.mirror.records import Meta
from kigi.mirror.store import TOMBSTONES
from kigi.mirror.triggers import enqueue_requests
from kigi.reconcilers import STALLED_RETRY_S, retry_delay
from kigi.reconcilers.writing import emit
from kigi.runtime import leader, metrics
from kigi.runtime.event_limit import BURST, OBJECTS, REFILL_S, EventLimit
from kigi.runtime.joins import Joins
from kigi.runtime.leader import Election
from kigi.runtime.ports import Ports
from kigi.runtime.queue import BACKOFF_LONGEST_S, WorkQueue
from kigi.runtime.settings import Settings
from tests.support.bodies import (
    NAME,
    NS,
    cache_body,
    chain_of,
    csi_node_body,
    deployment_body,
    lease_body,
    machine_body,
    node_body,
    system_body,
    target,
    volume_body,
)
from tests.support.mirrors import new_mirror

DAY = 86_400.0


# Leadership.


class Leases:
    """The API server's one Lease. Cheap, for a week of requests."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False
        self.lost = False
        """Writes are done, and their answers do not arrive."""

    async def get(self, *_: object) -> dict[str, Any] | None:
        if self.down:
            raise Unreachable("down")
        if self.lease is None:
            return None
        return {"metadata": {"resourceVersion": self.version}, "spec": dict(self.lease)}

    async def create(self, _: object, manifest: dict[str, Any]) -> dict[str, Any]:
        return await self.replace(_, manifest)

    async def replace(self, _: object, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.down:
            raise Unreachable("down")
        if self.lease is not None and manifest["metadata"].get("resourceVersion") != self.version:
            raise Conflict("changed")
        self.version += 1
        self.lease = dict(manifest["spec"])
        if self.lost:
            raise Unreachable("no answer")
        return manifest


@pytest.mark.parametrize("seed", range(3))
async def test_a_week_of_leadership_with_outages_pauses_and_clocks_that_are_set(seed: int) -> None:
    """Never two leaders, and one within two durations whenever the API server answers."""
    rng = random.Random(seed)
    lease_s = 120.0
    now, wall = [0.0], [datetime(2026, 1, 1, tzinfo=UTC)]
    server = Leases()
    candidates = [
        Election(
            cast(Any, server), namespace="ns", identity=name, lease_s=lease_s, clock=lambda: now[0], now=lambda: wall[0]
        )
        for name in ("a", "b")
    ]
    asleep = [0.0, 0.0]
    answering_since = 0.0
    terms, last = 0, None
    while now[0] < 7 * DAY:
        now[0] += lease_s / leader.ATTEMPTS
        wall[0] += timedelta(seconds=lease_s / leader.ATTEMPTS)
        if rng.random() < 0.002:
            wall[0] += timedelta(hours=rng.choice([-1, 1, -24, 24]))
        if rng.random() < 0.003:
            server.down, server.lost = rng.choice([(True, False), (False, True), (False, False)])
        elif rng.random() < 0.05:
            server.down = server.lost = False
        if server.down or server.lost:
            answering_since = now[0]
        for number, candidate in enumerate(candidates):
            if rng.random() < 0.001:  # a process that is stopped, as on an overloaded node
                asleep[number] = now[0] + rng.uniform(0, 10 * lease_s)
            if now[0] >= asleep[number]:
                await candidate.attempt()
        leading = [candidate.identity for candidate in candidates if candidate.is_leader]
        assert len(leading) <= 1
        if max(asleep) + 2 * lease_s < now[0] and answering_since + 2 * lease_s < now[0]:
            assert leading
        if leading and leading[0] != last:
            terms, last = terms + 1, leading[0]
    assert terms > 3
    assert server.lease is not None
    assert server.lease["leaseTransitions"] < 10_000


# Retries.


def test_a_hundred_thousand_failures_of_one_key_back_off_and_do_not_overflow() -> None:
    queue = WorkQueue()
    key = Key("deployment", "ns", "d")
    delays = [queue.backoff(key) for _ in range(100_000)]
    assert all(0 < delay <= BACKOFF_LONGEST_S * 1.2 for delay in delays)
    assert min(delays[20:]) >= BACKOFF_LONGEST_S * 0.8
    assert queue._failures == {key: 100_000}
    queue.succeeded(key)
    assert queue._failures == {}


@pytest.mark.parametrize(
    "error", [Conflict("x"), Unreachable("x"), SpecInvalid("x"), KigiError("x")], ids=lambda e: type(e).__name__
)
def test_no_error_is_retried_without_a_pause_in_the_long_run(error: KigiError) -> None:
    queue, key = WorkQueue(), Key("node", "", "n")
    delays = [retry_delay(error, queue.backoff(key)) for _ in range(1000)]
    assert min(delays) > 0.1
    assert 4.0 <= delays[-1] <= max(BACKOFF_LONGEST_S, STALLED_RETRY_S) * 1.2


async def test_a_hundred_thousand_keys_leave_nothing_in_the_queue() -> None:
    queue = WorkQueue()
    for number in range(100_000):
        key = Key("deployment", "ns", f"d{number}")
        queue.backoff(key)
        queue.add_after(key, 3600.0)
        queue.add(key)
        assert queue._take(1) == key
        queue._queued.discard(key)
        queue.succeeded(key)
    assert not (queue._ready or queue._queued or queue._active or queue._dirty or queue._timers or queue._failures)


# Memory.


def test_objects_that_come_and_go_leave_nothing_but_bounded_tombstones() -> None:
    mirror = new_mirror()
    mirror.put("Node", node_body())
    mirror.put("CSINode", csi_node_body())
    digest = chain_of("top")[0].digest
    for number in range(25_000):
        namespace = f"ns-{number}"
        body = system_body(
            "a", [{"name": "m", "rootDisk": {"imageRef": {"name": "top"}}, "hardware": {"memory": {"guest": "1Gi"}}}]
        )
        body["metadata"] |= {"namespace": namespace, "uid": f"s{number}"}
        mirror.put("SystemNode", body)
        mirror.resolved(namespace, "a")
        cache = cache_body(name=f"n-{number}", held=(digest,))
        cache["metadata"]["uid"] = f"c{number}"
        mirror.put("NodeCache", cache)
        cache = cache_body(name=f"n-{number}", held=(digest,), version=2)
        cache["metadata"]["uid"] = f"c{number}"
        mirror.put("NodeCache", cache)
        mirror.heartbeats.put(lease_body(f"n-{number}"), datetime(2026, 1, 1, tzinfo=UTC))
        mirror.gone("SystemNode", namespace, "a", f"s{number}")
        mirror.gone("NodeCache", None, f"n-{number}", f"c{number}")
        mirror.heartbeats.forget(f"n-{number}")
        mirror.resolved(namespace, "a")  # a late reconcile
        mirror.chain(namespace, "top")
    assert len(mirror._tombstones) == TOMBSTONES
    assert mirror.forest.is_empty()
    assert (mirror.holders, list(mirror.heartbeats)) == ({}, [])
    for name in ("SystemNode", "NodeCache"):
        store = mirror.stores[name]
        assert len(store) == 0
        assert all(groups == {} for groups in store._indexes.values())


def test_what_an_instance_uses_is_forgotten_with_its_volumes() -> None:
    mirror = new_mirror()
    mirror.put("Node", node_body())
    body = volume_body(target())
    machine = machine_body(target())
    mirror.put("PersistentVolume", body)
    mirror.put("VirtualMachine", machine)
    gather_nodes(mirror)
    assert mirror.node_use.of((NS, NAME, "0"))
    for kind, gone in (("PersistentVolume", body), ("VirtualMachine", machine)):
        meta = gone["metadata"]
        mirror.gone(kind, meta.get("namespace"), meta["name"], meta.get("uid", ""))
        gather_nodes(mirror)
    assert not +mirror.node_use.memory
    assert not mirror.node_use.load
    assert not mirror.node_use.of((NS, NAME, "0"))


def test_a_deleted_deployment_is_reconciled_once_more_and_its_metrics_go() -> None:
    mirror = new_mirror()
    mirror.put("SystemDeployment", deployment_body())
    record = mirror.deployments.get(NS, NAME)
    assert record is not None
    change = mirror.gone("SystemDeployment", NS, NAME, record.meta.uid)
    assert change is not None
    assert (Key("deployment", NS, NAME), 0.0) in set(enqueue_requests(mirror, change))


async def test_an_operator_that_lost_leadership_measures_no_deployment_and_no_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise its last value would raise an alert about a deployment that is complete by now."""
    lost, campaigning = asyncio.Event(), asyncio.Event()
    working = asyncio.Event()

    class Once:
        async def acquire(self) -> None:
            if lost.is_set():
                campaigning.set()
                await asyncio.Event().wait()

        async def hold(self) -> None:
            await lost.wait()

    async def work(ports: Ports) -> None:
        metrics.MISSING_BYTES.labels("ns", "lost").set(5)
        metrics.READY_INSTANCES.labels("ns", "lost").set(1)
        metrics.REPOSITORY_READABLE.labels("lost").set(0)
        working.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(operator_process, "_work", work)
    ports = Ports(cast(KubeClient, None), new_mirror(), WorkQueue(), Settings(identity="me", hook_image="kigi:dev"))
    task = asyncio.create_task(operator_process._lead(ports, cast(Election, Once())))
    await working.wait()
    assert b'deployment="lost"' in generate_latest()
    joins: list[str] = []

    async def join(*_: object) -> None:
        joins.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            joins.append("ended")

    ports.joins = Joins(join)
    repository = Repository(endpoint="http://s3.example", bucket="kigi")
    digest = Digest("sha256:" + "d" * 64)
    for copy in ("c1", "c2"):
        ports.joins.start(copy, repository, None, digest, 1, (digest,), lambda: joins.append("done"))
    await asyncio.sleep(0)
    lost.set()
    await campaigning.wait()
    assert (joins, ports.joins.troubles) == (["begun", "ended"], {}), "the next operator joins them"
    assert b'="lost"' not in generate_latest()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# Events.


def test_events_about_an_object_that_changes_each_second_for_a_day_are_few() -> None:
    now = [0.0]
    limit = EventLimit(lambda: now[0])
    allowed = 0
    for _ in range(int(DAY)):
        now[0] += 1
        allowed += limit.allows("u")
    assert allowed <= BURST + DAY / REFILL_S + 1
    now[0] += BURST * REFILL_S
    assert sum(limit.allows("u") for _ in range(1000)) == BURST


def test_the_limit_of_events_remembers_few_objects_and_those_that_are_busy() -> None:
    now = [0.0]
    limit = EventLimit(lambda: now[0])
    while limit.allows("busy"):
        pass
    for number in range(100_000):
        assert limit.allows(f"u{number}")
        if number % 1000 == 0:
            assert not limit.allows("busy")
    assert len(limit._left) == OBJECTS


async def test_events_beyond_the_limit_are_not_written() -> None:
    written: list[Any] = []

    class Kube:
        async def create(self, resource: object, manifest: object) -> None:
            written.append(manifest)

    ports = Ports(cast(KubeClient, Kube()), new_mirror(), WorkQueue(), Settings(identity="me", hook_image="kigi:dev"))
    meta = cast(Meta, SimpleNamespace(name="d", namespace="ns", uid="u"))
    for _ in range(10 * BURST):
        await emit(ports, DEPLOYMENT, meta, "Normal", "Ready", "x")
    assert len(written) == BURST


def test_a_lease_ends_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_MONOTONIC stops meanwhile, and another operator leads when the machine resumes."""
    boot = [100.0]
    monkeypatch.setattr(leader.time, "clock_gettime", lambda which: boot[0] if which == time.CLOCK_BOOTTIME else 0.0)
    election = Election(cast(Any, None), namespace="ns", identity="a", lease_s=30.0)
    election._valid_until = 120.0
    election.guard()
    boot[0] += 600
    with pytest.raises(LostLeadership):
        election.guard()


def test_the_guard_ends_with_the_lease() -> None:
    now = [0.0]
    election = Election(cast(Any, None), namespace="ns", identity="a", lease_s=30.0, clock=lambda: now[0])
    with pytest.raises(LostLeadership):
        election.guard()
