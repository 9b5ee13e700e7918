"""Builds the parts of one node's daemon from its settings, and runs them."""

from __future__ import annotations

import asyncio
import functools
import logging
from importlib.metadata import version

from aiohttp.web import Application

from kigi.adapters.qemu_img import create_overlay
from kigi.adapters.repositories import load_repositories
from kigi.api.node_facts import NodeFacts
from kigi.domain.node_protocol import PROTOCOLS
from kigi.errors import KigiError
from kigi_cache import metrics, web
from kigi_cache.background import Supervisor, Task
from kigi_cache.captures.barriers import Barriers
from kigi_cache.captures.copies import Captures
from kigi_cache.clock import Clock
from kigi_cache.disks.csi import NodePlugin
from kigi_cache.disks.grpc_server import SocketServer
from kigi_cache.disks.overlay_space import OverlaySpace
from kigi_cache.disks.registration import Registration
from kigi_cache.disks.volumes import Volumes
from kigi_cache.filesystem import capacity_bytes, free_bytes
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from kigi_cache.node.features import REFLINK, node_facts
from kigi_cache.node.kube import KubeApi
from kigi_cache.node.node_cache import RECOVERY, NodeCacheKeeper
from kigi_cache.periodic import follow_repositories, scrub_layers
from kigi_cache.root_lock import RootLock
from kigi_cache.settings import DaemonSettings, ListenAddress
from kigi_cache.sources.peer_certificates import PeerCertificates
from kigi_cache.sources.peer_connections import PeerConnections, serve_peers
from kigi_cache.sources.peer_members import Members, address
from kigi_cache.sources.peer_pins import PublishedPins
from kigi_cache.sources.peer_server import build_peer_app
from kigi_cache.sources.peer_source import PeerSource
from kigi_cache.sources.peer_tokens import PeerTokens
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
        """Call it in the event loop. Raises SpecInvalid if the variables of the repository ``default`` are invalid."""
        self._settings = settings
        self._clock = clock
        self._lock = RootLock(settings.root)
        self._supervisor = Supervisor(clock, lambda: self._keeper.changed())
        self._is_recovered = False
        self._s3 = S3Source(load_repositories(settings.repositories), connections=settings.connections)
        self._peer_address = address(settings.pod_ips[0], settings.peer_address.port)
        self._certificates = PeerCertificates(clock)
        self._tokens = PeerTokens(api, settings.peer_token, clock)
        self._members = self._members_behind(api)
        store = Store(settings.root)
        capacity = capacity_bytes(settings.root)
        budget = Budget(settings.budget.of(capacity), min_free_bytes=settings.min_free.of(capacity))
        goes_back = settings.overlay_form == "v1alpha1"
        self._volumes = Volumes(settings.root, store, create_overlay, goes_back=goes_back)
        self._filler = Filler(
            store,
            self._source(api),
            budget,
            max_transfers=settings.connections,
            max_prefetches=settings.prefetches,
            clock=clock,
            on_change=lambda: self._keeper.changed(),
            on_error=lambda digest, error: self._keeper.warn(error.reason, digest, str(error)),
            supervisor=self._supervisor,
        )
        self._overlay_space = self._space_of_overlays(budget)
        self._captures = Captures(
            settings.root,
            self._volumes,
            min_free_bytes=budget.kept_free_bytes,
            max_depth=self._s3.max_depth,
            free_space=self._filler.free_space,
            clock=clock,
            barriers=Barriers(self._volumes, self._volumes.empty, self._shares_blocks),
        )
        self._keeper = NodeCacheKeeper(
            api,
            self._volumes,
            self._filler,
            self._captures,
            peer_address=self._peer_address if settings.peer_address.port else None,
            certificates=self._certificates,
            version=version("kigi"),
            clock=clock,
            supervisor=self._supervisor,
            is_ready=lambda: self._is_recovered,
        )

    async def prepare(self) -> None:
        """Make this the only daemon of the cache. Without it, nothing may run. Raises CacheInUse and OSError."""
        await self._lock.acquire(self._clock)
        await asyncio.to_thread(self._s3.prepare)
        metrics.BUILD.labels(version("kigi"), str(max(PROTOCOLS))).set(1)
        metrics.REGISTRY.register(metrics.CacheCollector(lambda: self._keeper.status))

    async def run(self) -> None:
        """Serve until cancelled. An interrupted fetch continues at the next start."""
        logger.info("started", extra={"node": self._settings.node_name, "root": str(self._settings.root)})
        await self._supervisor.run(self._tasks())

    async def close(self) -> None:
        """End copies and connections."""
        await self._captures.close()
        self._s3.close()
        self._lock.release()

    async def _recover(self) -> None:
        """Read the content of the disk, and clean up after a crash. The store is first: it records removed links."""
        await self._filler.recover()
        await asyncio.to_thread(self._volumes.recover)
        await asyncio.to_thread(self._captures.recover)
        self._keeper.facts = await self._facts()
        self._is_recovered = True
        self._keeper.changed()

    async def _facts(self) -> NodeFacts | None:
        """None if they cannot be found: they are only reported, and a full disk must not end the recovery."""
        try:
            return await asyncio.to_thread(node_facts, self._settings.root)
        except OSError as exc:
            logger.warning("features of the file system not tested", extra={"cause": str(exc)})
            return None

    def _shares_blocks(self) -> bool:
        return self._keeper.facts is not None and REFLINK in self._keeper.facts.features

    def _space_of_overlays(self, budget: Budget) -> OverlaySpace:
        return OverlaySpace(
            self._volumes,
            self._clock,
            functools.partial(free_bytes, self._settings.root),
            headroom_bytes=self._settings.overlay_headroom,
            warn_below_bytes=budget.kept_free_bytes,
            on_change=lambda report: self._keeper.space_changed(report),
            is_ready=lambda: self._is_recovered,
        )

    def _members_behind(self, api: KubeApi) -> Members:
        at, ips, port = self._settings, self._settings.pod_ips, self._settings.peer_address.port
        return Members(api, at.pod_namespace, at.peer_service, ips=ips, port=port, clock=self._clock)

    def _source(self, api: KubeApi) -> Source:
        """The repository, behind the peers if nodes fetch from each other."""
        settings = self._settings
        if not settings.peer_address.port:
            return self._s3
        members = self._members if settings.peer_service else lambda: settings.peers
        pins = PublishedPins(api, self._members.node_of if settings.peer_service else settings.peers.get, self._clock)
        return PeerSource(self._s3, self._peer_address, members, self._tokens.own, pins, clock=self._clock)

    def _tasks(self) -> dict[str, Task]:
        settings = self._settings
        follow = functools.partial(follow_repositories, settings.repositories, self._s3.use, self._clock)
        scrub = functools.partial(
            scrub_layers, self._filler, settings.scrub_interval_s, settings.scrub_bytes_per_s, self._clock
        )
        tasks: dict[str, Task] = {
            RECOVERY: self._recover,
            "filler": self._filler.run,
            "scrub": scrub,
            "overlay space": self._overlay_space.run,
            "repositories": follow,
            "node-cache": self._keeper.run,
            "csi": SocketServer(settings.csi_socket, self._plugin().services(), clock=self._clock).run,
            "http": _serving(web.build_app(self._keeper.unready), settings.http_address),
        }
        if settings.registration_dir:
            registration = Registration(settings.registration_dir, settings.csi_endpoint, clock=self._clock)
            tasks["registration"] = registration.run
        if settings.peer_address.port:
            tasks = {"peer-certificates": self._certificates.run, **tasks, "peer-server": self._serve_peers}
            if settings.peer_service:
                tasks["peer-members"] = self._members.run
        return tasks

    async def _serve_peers(self) -> None:
        await self._certificates.is_known.wait()
        connections = PeerConnections()
        app = build_peer_app(self._filler, self._tokens.peer, connections)
        at = self._settings.peer_address
        await serve_peers(app, connections, self._certificates.context, at.host, at.port)

    def _plugin(self) -> NodePlugin:
        return NodePlugin(
            self._settings.node_name,
            self._volumes,
            self._filler,
            CallObserver(self._keeper),
            max_volumes=self._settings.max_volumes,
            is_ready=lambda: self._is_recovered,
            clock=self._clock,
        )


def _serving(app: Application, at: ListenAddress) -> Task:
    return functools.partial(web.serve, app, at.host, at.port)
