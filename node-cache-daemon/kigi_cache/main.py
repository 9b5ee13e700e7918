"""``kigi-cache``: the daemon of one node."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

from kigi.adapters.json_logs import log_to_stderr
from kigi.adapters.qemu_img import create_overlay
from kigi.adapters.repositories import load_repositories
from kigi.errors import KigiError
from kigi_cache import metrics, web
from kigi_cache.captures.copies import Captures
from kigi_cache.disks.csi import NodePlugin
from kigi_cache.disks.grpc_server import SocketServer
from kigi_cache.disks.registration import Registration
from kigi_cache.disks.volumes import Volumes
from kigi_cache.filesystem import capacity_bytes
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from kigi_cache.node.kube import KubeApi
from kigi_cache.node.node_cache import NodeCacheKeeper
from kigi_cache.settings import Settings, from_environment
from kigi_cache.sources.peer_access import Members, PeerTokens, address
from kigi_cache.sources.peer_server import build_peer_app
from kigi_cache.sources.peer_source import PeerSource
from kigi_cache.sources.s3 import S3Source
from kigi_cache.sources.source import Source

logger = logging.getLogger(__name__)

SCRUB_LOOKS_PER_INTERVAL = 48
REPOSITORIES_LOOK_S = 5.0


class CallObserver:
    """Passes what CSI calls say on to metrics, status and events."""

    def __init__(self, keeper: NodeCacheKeeper) -> None:
        self._keeper = keeper

    def called(self, method: str, code: str, seconds: float) -> None:
        """Count it."""
        metrics.CSI_CALLS.labels(method, code).inc()
        metrics.CSI_SECONDS.labels(method).observe(seconds)

    def volumes_changed(self) -> None:
        """The status lists overlays."""
        self._keeper.changed()

    def failed(self, handle: str, error: KigiError) -> None:
        """Perhaps an event."""
        self._keeper.volume_failed(handle, error)


async def run(settings: Settings) -> None:
    """Serve until cancelled; what is half fetched stays and is continued at the next start."""
    api = KubeApi(settings.node_name)
    await api.open()
    s3 = S3Source(load_repositories(settings.repositories), connections=settings.connections)
    await asyncio.to_thread(s3.prepare)
    me = address(settings.peer_ip, settings.peer_port)
    tokens = PeerTokens(api, settings.peer_token)
    members = Members(api, settings.peer_namespace, settings.peer_service, me)
    source: Source = s3
    if settings.peer_port:
        known = members if settings.peer_service else lambda: settings.peer_members
        source = PeerSource(s3, me, known, tokens.own)
    store = Store(settings.root)
    volumes = Volumes(settings.root, store, create_overlay)
    await asyncio.to_thread(volumes.recover)
    budget = Budget(budget_bytes(settings), min_free_bytes=min_free_bytes(settings))
    filler = Filler(
        store,
        source,
        budget,
        max_transfers=settings.connections,
        max_prefetches=settings.prefetches,
        on_change=lambda: keeper.changed(),
        on_error=lambda digest, error: keeper.warn(error.reason, digest, str(error)),
    )
    captures = Captures(
        settings.root,
        volumes,
        min_free_bytes=budget.kept_free_bytes,
        max_depth=s3.max_depth,
        make_room=filler.free_space,
    )
    await asyncio.to_thread(captures.recover)
    keeper = NodeCacheKeeper(api, volumes, filler, captures, peer_address=me if settings.peer_port else None)
    metrics.REGISTRY.register(metrics.CacheCollector(lambda: keeper.status))
    plugin = NodePlugin(
        settings.node_name,
        volumes,
        filler,
        CallObserver(keeper),
        max_volumes=settings.max_volumes,
        is_ready=filler.is_recovered,
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(filler.run())
            group.create_task(_scrub(filler, settings))
            group.create_task(_follow_repositories(s3, settings.repositories))
            group.create_task(keeper.run())
            group.create_task(SocketServer(settings.csi_socket, plugin.services()).run())
            group.create_task(web.serve(web.build_app(keeper.unready), settings.http_host, settings.http_port))
            if settings.registration_dir:
                group.create_task(Registration(settings.registration_dir, settings.csi_endpoint).run())
            if settings.peer_port:
                app = build_peer_app(filler, tokens.allowed)
                group.create_task(web.serve(app, settings.peer_host, settings.peer_port))
            if settings.peer_port and settings.peer_service:
                group.create_task(members.run())
            logger.info("started", extra={"node": settings.node_name, "root": str(settings.root)})
    finally:
        await captures.close()
        s3.close()
        await api.close()


async def _follow_repositories(source: S3Source, path: Path | None) -> None:
    """Take in repositories.yaml whenever it changes; while it cannot be understood, what was known goes on."""
    text = await asyncio.to_thread(_read, path)
    while path is not None:
        await asyncio.sleep(REPOSITORIES_LOOK_S)
        found = await asyncio.to_thread(_read, path)
        if found == text:
            continue
        text = found
        try:
            source.use(load_repositories(path))
            logger.info("repositories.yaml taken in", extra={"path": str(path)})
        except KigiError as exc:
            logger.warning("repositories.yaml left aside", extra={"cause": str(exc)})


def _read(path: Path | None) -> bytes:
    """A missing file is an empty one."""
    try:
        return path.read_bytes() if path is not None else b""
    except OSError:
        return b""


async def _scrub(filler: Filler, settings: Settings) -> None:
    """Read every layer again once in a while: a disk may forget what was verified when it was written.

    Looks often for those whose time has come: a daemon that is restarted every day would else never come to it.
    """
    while settings.scrub_interval_s > 0:
        await asyncio.sleep(settings.scrub_interval_s / SCRUB_LOOKS_PER_INTERVAL)
        damaged = await filler.scrub(settings.scrub_interval_s, settings.scrub_bytes_per_s)
        metrics.SCRUB_FINISHED.set_to_current_time()
        if damaged:
            logger.warning("damaged layers found", extra={"damaged": damaged})


def budget_bytes(settings: Settings) -> int:
    """Most that layers may take: as set, or a share of the whole file system."""
    if settings.budget_bytes is not None:
        return settings.budget_bytes
    return int(capacity_bytes(settings.root) * settings.budget_share)


def min_free_bytes(settings: Settings) -> int:
    """Bytes of the cache's file system that layers leave free: as set, or a share of all."""
    if settings.min_free_bytes is not None:
        return settings.min_free_bytes
    return int(capacity_bytes(settings.root) * settings.min_free_share)


def main() -> None:
    """Read the environment, run, and end cleanly on SIGTERM."""
    try:
        settings = from_environment()
    except ValueError as exc:
        sys.exit(str(exc))
    log_to_stderr(settings.log_level)
    asyncio.run(_until_signalled(settings))


async def _until_signalled(settings: Settings) -> None:
    task = asyncio.ensure_future(run(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logger.info("stopped")


if __name__ == "__main__":
    main()
