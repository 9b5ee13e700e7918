"""The operator's process: watches from its start, and works while it leads."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, cast

import kopf

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import CHILDREN, WATCHED, Resource
from kigi.domain.node_protocol import PROTOCOL
from kigi.errors import KigiError
from kigi.handlers import children, decoding, feed, heartbeats
from kigi.mirror.store import Mirror
from kigi.mirror.triggers import all_keys
from kigi.reconcilers import work
from kigi.reconcilers.hook_image import read_hook_image
from kigi.runtime import metrics
from kigi.runtime.leader import Election
from kigi.runtime.liveness import LOOP_S
from kigi.runtime.ports import ClusterRestored, Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings

logger = logging.getLogger(__name__)

FIRST_RESYNC_S = 5.0
"""Delay of the resync after the first listing. By then the watches run: it finds objects deleted between the two."""
DOUBT_S = 30.0
"""Least time between a resync and one for which a watch was the reason."""
RESYNC = "resync"
"""The leader's loop that lists every kind, in ``Ports.liveness``."""
LIST_BACKOFF_S = (0.5, 10.0)
"""First and longest delay between attempts to list every kind."""
FEED = tuple(resource for resource in WATCHED if resource not in CHILDREN)
"""The kinds that kopf watches."""
WATCHES_END_S = 10.0
"""Time in which kopf ends its watches; then they are cancelled."""


async def open_ports(settings: Settings) -> Ports:
    """Client, empty mirror and queue. The caller closes ``ports.kube``."""
    configuration = await load_configuration(settings.kubeconfig)
    kube = KubeClient(configuration, concurrency=settings.concurrency, timeout_s=settings.request_timeout_s)
    return Ports(kube=kube, mirror=Mirror(), queue=WorkQueue(), settings=settings, version=version("kigi"))


async def run_operator(ports: Ports, *, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
    """Runs until ``stop`` is set; sets ``ready`` when the watches run."""
    settings = ports.settings
    metrics.BUILD.labels(version("kigi"), str(PROTOCOL)).set(1)
    # The lease needs a client without a guard, because the guard depends on the lease.
    async with KubeClient(await load_configuration(settings.kubeconfig), timeout_s=settings.lease_s / 3) as api:
        election = Election(
            api,
            namespace=settings.namespace,
            identity=settings.identity,
            lease_s=settings.lease_s,
            version=version("kigi"),
            attempting=functools.partial(ports.liveness.beat, "lease"),
        )
        if settings.leader_election:
            ports.kube.guard = election.guard
        ended = asyncio.Event()
        watching = asyncio.create_task(watch_cluster(ports, ended, ready), name="watch")
        hearing = asyncio.create_task(heartbeats.watch_heartbeats(ports), name="heartbeats")
        following = [
            asyncio.create_task(children.ChildWatch(ports, resource).run(), name=f"watch {resource.kind}")
            for resource in CHILDREN
        ]
        leading = asyncio.create_task(_lead(ports, election), name="lead")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await _wait_for_first(watching, hearing, leading, stopping, *following)
        finally:
            await _cancel(hearing, leading, stopping, *following)
            if settings.leader_election:
                await election.release()
            ended.set()
            await asyncio.wait({watching}, timeout=WATCHES_END_S)
            await _cancel(watching)


async def watch_cluster(
    ports: Ports,
    ended: asyncio.Event,
    ready: asyncio.Event | None,
    *,
    times: feed.WatchTimes = feed.TIMES,
    resources: Sequence[Resource] = FEED,
) -> None:
    """Watches until ``ended`` is set, or kopf receives SIGTERM; ``ready`` is set when the watches run."""
    feed.quiet()
    decoding.install(ports.liveness)
    tasks = await kopf.spawn_tasks(
        registry=feed.registry(ports, times, resources),
        settings=feed.operator_settings(ports.settings.request_timeout_s, times, ports.liveness),
        clusterwide=True,
        standalone=True,
        # Without an identity, kopf asks the system for its user's name, which a container's user does not have.
        identity=cast("Any", ports.settings.identity),
        stop_flag=ended,
        ready_flag=ready,
    )
    # kopf.run_tasks would cancel every task of the event loop at its end.
    try:
        await _wait_for_first(*tasks)
    finally:
        await _cancel(*tasks)


async def _lead(ports: Ports, election: Election) -> None:
    """Campaigns for the lease, works while it holds it, and campaigns again after losing it."""
    while True:
        if not ports.settings.leader_election:
            await _work(ports)
        await election.acquire()
        working = asyncio.create_task(_work(ports), name="work")
        holding = asyncio.create_task(election.hold(), name="hold")
        try:
            await _wait_for_first(working, holding)
        finally:
            await _cancel(working, holding)
            ports.liveness.end(RESYNC)
            ports.mirror.synced = False  # watches go on, and enqueue nothing until this process leads again
            await ports.joins.cancel()
            ports.queue.clear()
            metrics.forget_objects()


async def _work(ports: Ports) -> None:
    """Lists every kind, then reconciles what changes; never returns.

    The listing begins after the election: it has every write of the former leader.
    """
    ports.mirror.synced = False
    ports.mirror.node_use.clear_reservations()
    ports.mirror.first_held.clear()
    ports.mirror.prefetch_orders.clear()  # another operator may have led since: NodeCaches have its orders
    metrics.SYNCED.set(0)
    delay_s, longest_s = LIST_BACKOFF_S
    while not (await read_hook_image(ports) and await _relist_every_kind(ports)):
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, longest_s)
    ports.mirror.synced = True
    metrics.SYNCED.set(1)
    _enqueue_all(ports)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_resync(ports))
            group.create_task(ports.queue.run(ports.settings.workers, functools.partial(work, ports)))
    except ExceptionGroup as found:
        restored = found.subgroup(ClusterRestored)
        raise found if restored is None else ClusterRestored(str(restored.exceptions[0])) from found


async def _relist_every_kind(ports: Ports) -> bool:
    """False after the first failure: a silent API server costs one timeout."""
    for resource in WATCHED:
        if not await _relist(ports, resource):
            return False
    try:
        await heartbeats.list_heartbeats(ports)
    except KigiError as exc:
        logger.warning("heartbeats not listed", extra={"error": str(exc)})
        return False
    return True


async def _resync(ports: Ports) -> None:
    """Lists every kind periodically, which finds what a watch missed, and reconciles everything.

    Earlier if a watch begins with an object that is older than the mirror's.
    """
    await asyncio.sleep(min(FIRST_RESYNC_S, ports.settings.resync_s))
    while True:
        ports.doubt.clear()
        for resource in WATCHED:
            await _relist(ports, resource, count=True)
        if not ports.hook_image:
            await read_hook_image(ports)
        _enqueue_all(ports)
        pause_s = min(DOUBT_S, ports.settings.resync_s)
        await asyncio.sleep(pause_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ports.settings.resync_s - pause_s):
                await ports.doubt.wait()


async def _relist(ports: Ports, resource: Resource, *, count: bool = False) -> bool:
    """Brings the mirror of one kind up to date. False if that failed; the failure is logged.

    Supervises the listing, like the queue's worker: neither an API server without an answer nor an object that the
    mirror cannot parse ends the operator; a restored etcd does. Each object is progress of the resync.
    ``count``: differences count as found by a resync.
    """
    progress = functools.partial(ports.liveness.beat, RESYNC, ports.settings.resync_s + LOOP_S)
    progress()
    try:
        found = await ports.relist(resource, progress)
    except ClusterRestored:
        raise
    except Exception as exc:
        is_bug = not isinstance(exc, KigiError)
        logger.warning("listing failed", extra={"kind": resource.kind, "error": str(exc)}, exc_info=is_bug)
        return False
    if count:
        metrics.RESYNC_FOUND.labels(resource.kind).inc(found)
    return True


def _enqueue_all(ports: Ports) -> None:
    for key in all_keys(ports.mirror):
        ports.queue.add(key)


async def _wait_for_first(*tasks: asyncio.Task[Any]) -> None:
    """Waits until one of the tasks ends, and raises its error if it has one."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks and waits for their end; their errors are ignored."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
