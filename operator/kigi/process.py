"""The operator put together: watch, lead, list, work."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import Any, cast

import kopf

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import WATCHED
from kigi.handlers import feed
from kigi.mirror import triggers as routing
from kigi.mirror.store import Mirror
from kigi.reconcilers import work
from kigi.runtime import metrics
from kigi.runtime.leader import Election
from kigi.runtime.ports import Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings

logger = logging.getLogger(__name__)

SECOND_LOOK_S = 5.0
"""After the first listing, once more: by then the watches run, and what was deleted between the two is found."""


async def open_ports(settings: Settings) -> Ports:
    """Client, empty mirror and queue; close ``ports.kube`` at the end."""
    configuration = await load_configuration(settings.kubeconfig)
    kube = KubeClient(configuration, concurrency=settings.concurrency, timeout_s=settings.request_timeout_s)
    return Ports(kube=kube, mirror=Mirror(), queue=WorkQueue(), settings=settings)


async def run_operator(ports: Ports, *, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
    """Runs until ``stop`` is set; ``ready`` is set when the watches run."""
    settings = ports.settings
    # The lease is written past the guard that it feeds.
    async with KubeClient(await load_configuration(settings.kubeconfig), timeout_s=settings.lease_s / 3) as api:
        election = Election(api, namespace=settings.namespace, identity=settings.identity, lease_s=settings.lease_s)
        if settings.leader_election:
            ports.kube.guard = election.guard
        ended = asyncio.Event()
        watching = asyncio.create_task(_watch(ports, ended, ready), name="watch")
        leading = asyncio.create_task(_lead(ports, election), name="lead")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({watching, leading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            leading.cancel()
            stopping.cancel()
            await asyncio.gather(leading, stopping, return_exceptions=True)
            if settings.leader_election:
                await election.release()
            ended.set()
            await asyncio.wait({watching}, timeout=10)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _watch(ports: Ports, ended: asyncio.Event, ready: asyncio.Event | None) -> None:
    """Watches until ``ended`` is set or SIGTERM comes, which kopf takes for itself."""
    feed.quiet()
    tasks = await kopf.spawn_tasks(
        registry=feed.registry(ports),
        settings=feed.operator_settings(ports.settings.request_timeout_s),
        clusterwide=True,
        standalone=True,
        # Without one, kopf asks the system for its user's name, which a container's user has not.
        identity=cast("Any", ports.settings.identity),
        stop_flag=ended,
        ready_flag=ready,
    )
    # kopf.run_tasks would take every task of the event loop for its own at the end, and cancel it.
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _lead(ports: Ports, election: Election) -> None:
    """Leads, works while it leads, and stands again when it is lost."""
    while True:
        if not ports.settings.leader_election:
            await _work(ports)
        await election.acquire()
        working = asyncio.create_task(_work(ports), name="work")
        holding = asyncio.create_task(election.hold(), name="hold")
        try:
            done, _ = await asyncio.wait({working, holding}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            working.cancel()
            holding.cancel()
            await asyncio.gather(working, holding, return_exceptions=True)
            ports.queue.clear()


async def _work(ports: Ports) -> None:
    """Lists everything, then works on what changes; never returns.

    The listing is made after leadership was won: it shows every write of the leader before.
    """
    ports.mirror.synced = False
    metrics.SYNCED.set(0)
    await _list_until_done(ports)
    ports.mirror.synced = True
    metrics.SYNCED.set(1)
    for key in routing.everything(ports.mirror):
        ports.queue.add(key)
    async with asyncio.TaskGroup() as group:
        group.create_task(_resync(ports))
        group.create_task(ports.queue.run(ports.settings.workers, functools.partial(work, ports)))


async def _list_until_done(ports: Ports) -> None:
    delay_s = 0.5
    while True:
        try:
            for resource in WATCHED:
                await ports.relist(resource)
        except Exception as exc:
            logger.warning("listing failed", extra={"error": str(exc)})
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 10.0)
        else:
            return


async def _resync(ports: Ports) -> None:
    """Finds what a watch missed, and looks at everything again."""
    await asyncio.sleep(min(SECOND_LOOK_S, ports.settings.resync_s))
    while True:
        for resource in WATCHED:
            with contextlib.suppress(Exception):
                found = await ports.relist(resource)
                metrics.RESYNC_FOUND.labels(resource.kind).inc(found)
        for key in routing.everything(ports.mirror):
            ports.queue.add(key)
        await asyncio.sleep(ports.settings.resync_s)
