"""Builds the parts of one node's daemon from its settings, and runs them."""

from __future__ import annotations

import asyncio
import functools
import logging

from aiohttp.web import Application

from kigi.adapters.qemu_img import create_overlay
from kigi.adapters.repositories import load_repositories
from kigi.errors import KigiError
from kigi_cache import metrics, web
from kigi_cache.background import Task, supervise
from kigi_cache.captures.copies import Captures
from kigi_cache.clock import Clock
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
from kigi_cache.periodic import follow_repositories, scrub_layers
from kigi_cache.settings import DaemonSettings, ListenAddress
from kigi_cache.sources.peer_access import Members, PeerTokens, address
from kigi_cache.sources.peer_server import build_peer_app
from kigi_cache.sources.peer_source import PeerSource
from kigi_cache.sources.s3 import S3Source
from kigi_cache.sources.source import Source

logger = logging.getLogger(__name__)


class CallObserver:
    """Reports CSI calls as metrics, and their effects to the NodeCache."""

    def __init__(self, keeper: NodeCacheKeeper) -> None:
        self._keeper = keeper

    def called(self, method: str, code: str, seconds: float) -> None:
        """Count an answered call."""
        metrics.CSI_CALLS.labels(method, code).inc()
        metrics.CSI_SECONDS.labels(method).observe(seconds)

    def volumes_changed(self) -> None:
        """Update the overlays in the status."""
        self._keeper.changed()

    def failed(self, handle: str, error: KigiError) -> None:
        """Emit an event if a person must act."""
        self._keeper.volume_failed(handle, error)


class Daemon:
    """The parts of one daemon. Call ``prepare``, then ``run``; ``close`` ends what both have started."""

    def __init__(self, settings: DaemonSettings, api: KubeApi, clock: Clock) -> None:
        """Raises SpecInvalid if repositories.yaml is invalid."""
        self._settings = settings
        self._clock = clock
        self._s3 = S3Source(load_repositories(settings.repositories), connections=settings.connections)
        self._peer_address = address(settings.pod_ip, settings.peer_address.port)
        self._tokens = PeerTokens(api, settings.peer_token, clock)
        self._members = Members(api, settings.pod_namespace, settings.peer_service, self._peer_address, clock)
        store = Store(settings.root)
        capacity = capacity_bytes(settings.root)
        budget = Budget(settings.budget.of(capacity), min_free_bytes=settings.min_free.of(capacity))
        self._volumes = Volumes(settings.root, store, create_overlay)
        self._filler = Filler(
            store,
            self._source(),
            budget,
            max_transfers=settings.connections,
            max_prefetches=settings.prefetches,
            clock=clock,
            on_change=lambda: self._keeper.changed(),
            on_error=lambda digest, error: self._keeper.warn(error.reason, digest, str(error)),
        )
        self._captures = Captures(
            settings.root,
            self._volumes,
            min_free_bytes=budget.kept_free_bytes,
            max_depth=self._s3.max_depth,
            free_space=self._filler.free_space,
            clock=clock,
        )
        self._keeper = NodeCacheKeeper(
            api,
            self._volumes,
            self._filler,
            self._captures,
            peer_address=self._peer_address if settings.peer_address.port else None,
            clock=clock,
        )

    async def prepare(self) -> None:
        """Clean up after a crash; blocks no event loop. Without it, nothing may run."""
        await asyncio.to_thread(self._s3.prepare)
        await asyncio.to_thread(self._volumes.recover)
        await asyncio.to_thread(self._captures.recover)
        metrics.REGISTRY.register(metrics.CacheCollector(lambda: self._keeper.status))

    async def run(self) -> None:
        """Serve until cancelled. An interrupted fetch continues at the next start."""
        logger.info("started", extra={"node": self._settings.node_name, "root": str(self._settings.root)})
        await supervise(self._tasks())

    async def close(self) -> None:
        """End copies and connections."""
        await self._captures.close()
        self._s3.close()

    def _source(self) -> Source:
        """The repository, behind the peers if nodes fetch from each other."""
        settings = self._settings
        if not settings.peer_address.port:
            return self._s3
        members = self._members if settings.peer_service else lambda: settings.peers
        return PeerSource(self._s3, self._peer_address, members, self._tokens.own, clock=self._clock)

    def _tasks(self) -> dict[str, Task]:
        settings = self._settings
        follow = functools.partial(follow_repositories, settings.repositories, self._s3.use, self._clock)
        scrub = functools.partial(
            scrub_layers, self._filler, settings.scrub_interval_s, settings.scrub_bytes_per_s, self._clock
        )
        tasks: dict[str, Task] = {
            "filler": self._filler.run,
            "scrub": scrub,
            "repositories": follow,
            "node-cache": self._keeper.run,
            "csi": SocketServer(settings.csi_socket, self._plugin().services(), clock=self._clock).run,
            "http": _serving(web.build_app(self._keeper.unready), settings.http_address),
        }
        if settings.registration_dir:
            registration = Registration(settings.registration_dir, settings.csi_endpoint, clock=self._clock)
            tasks["registration"] = registration.run
        if settings.peer_address.port:
            app = build_peer_app(self._filler, self._tokens.allowed)
            tasks["peer-server"] = _serving(app, settings.peer_address)
            if settings.peer_service:
                tasks["peer-members"] = self._members.run
        return tasks

    def _plugin(self) -> NodePlugin:
        return NodePlugin(
            self._settings.node_name,
            self._volumes,
            self._filler,
            CallObserver(self._keeper),
            max_volumes=self._settings.max_volumes,
            is_ready=self._filler.is_recovered,
            clock=self._clock,
        )


def _serving(app: Application, at: ListenAddress) -> Task:
    return functools.partial(web.serve, app, at.host, at.port)
