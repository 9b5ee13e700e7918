"""Operators in virtual time on a simulated API server: their process, connection, watches and clocks can be disturbed.

All of the operator runs but kopf and aiohttp: election, work queue, mirror, listings, reconcilers, and the client that
builds requests. A frozen process gets no answer, no event and no timer; what it has sent is on its way nevertheless.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import parse_qsl

from kigi import process
from kigi.adapters.kubernetes.api_errors import error_of, no_answer
from kigi.adapters.kubernetes.api_requests import PAGE, Request
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.connection import Guard, guarded
from kigi.adapters.kubernetes.resources import CHILDREN, Resource
from kigi.adapters.kubernetes.watch import WatchEvent
from kigi.adapters.s3_probe import ConditionalWrites
from kigi.errors import KigiError, Unreachable
from kigi.handlers import children, feed, heartbeats
from kigi.mirror.store import Mirror
from kigi.runtime.leader import LEASE_NAME, Election
from kigi.runtime.ports import ClusterRestored, Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.simulated_api import Refused, SimulatedApi, copied, split_path

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
"""Time of the wall clocks when virtual time begins."""
BOOKMARK_S = 60.0
RESTART_S = 2.0


def virtual() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


@dataclass
class Machine:
    """Where a process runs: its clock, its network, and whether it runs at all."""

    chance: random.Random
    clock_s: float = 0.0
    """By how much the wall clock is set wrong."""
    frozen_until: float = 0.0
    cut_until: float = 0.0
    """Until then no request arrives, and no watch gets an event."""
    blind_until: float = 0.0
    """Until then watches lose events, without an end of the watch."""
    slow_until: float = 0.0
    """Until then each request may wait in the server's queue for up to a minute."""
    late_until: float = 0.0
    """Until then each packet to the server takes up to ``late_s``."""
    late_s: float = 0.0
    stall_at: int | None = None
    """Number of writes after which the process freezes, for ``stall_s``, when it has sent one more."""
    stall_s: float = 0.0

    def now(self) -> datetime:
        """The wall clock."""
        return START + timedelta(seconds=virtual() + self.clock_s)

    def is_calm(self) -> bool:
        """Whether nothing disturbs it now."""
        troubles = (self.frozen_until, self.cut_until, self.slow_until, self.late_until)
        return self.stall_at is None and max(troubles) <= virtual()

    def stalls_now(self) -> bool:
        """Counts a write that is sent; whether the process freezes now."""
        if self.stall_at is None:
            return False
        self.stall_at -= 1
        if self.stall_at >= 0:
            return False
        self.stall_at, self.frozen_until = None, virtual() + self.stall_s
        return True

    async def awake(self) -> None:
        """Returns as soon as the process runs."""
        left_s = self.frozen_until - virtual()
        if left_s > 0:
            await asyncio.sleep(left_s)
            await self.awake()  # it may have been frozen for longer meanwhile

    async def sleep(self, seconds: float) -> None:
        """Passes the time, as far as the process runs."""
        await asyncio.sleep(max(0.0, seconds))
        await self.awake()

    def call_later(self, delay_s: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls the function after the delay, or when the process runs again."""

        def run() -> None:
            left_s = self.frozen_until - virtual()
            if left_s > 0:
                asyncio.get_running_loop().call_later(left_s, run)
            else:
                function()

        return asyncio.get_running_loop().call_later(delay_s, run)


@dataclass
class Arrival:
    """A change that the server carried out for a process."""

    at: float
    who: str
    request: Request


class SimulatedConnection:
    """The connection of one process, in place of ``ApiConnection``."""

    def __init__(
        self, api: SimulatedApi, who: str, machine: Machine, arrived: Callable[[Arrival], None], timeout_s: float = 30.0
    ) -> None:
        self._api, self._who, self._machine, self._arrived = api, who, machine, arrived
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(32)

    async def close(self) -> None:
        """Nothing is open."""

    async def send(
        self, request: Request, *, max_bytes: int | None = None, guard: Guard | None = None
    ) -> dict[str, Any]:
        """As ``ApiConnection.send``: the guard is asked when the request has a slot and credentials."""
        async with self._slots:
            await self._machine.awake()
            request, left_s = guarded(request, guard)
            return await self._exchange(request, min(self._timeout_s, left_s or self._timeout_s))

    async def _exchange(self, request: Request, limit_s: float) -> dict[str, Any]:
        """Sends it, and waits for the answer. A process that runs closes the connection at the limit."""
        machine, give_up = self._machine, virtual() + limit_s
        if machine.is_calm() and virtual() >= self._api.down_until:
            await asyncio.sleep(0.002)
            return self._carried_out(request)
        stalls = request.method != "GET" and machine.stalls_now()
        serving = asyncio.create_task(self._serve(request, machine.chance.random(), stalls=stalls))
        try:
            await asyncio.wait({serving}, timeout=give_up - virtual())
            await machine.awake()
            in_time = serving.done() and virtual() < give_up
        finally:
            serving.cancel()  # a closed connection ends what the server still does for it
        if not in_time:
            serving.add_done_callback(lambda task: task.cancelled() or task.exception())
            raise no_answer(str(request), "no answer in time")
        try:
            return serving.result()
        except Refused as exc:
            raise error_of(exc.status, {"message": str(exc)}, str(request)) from exc

    async def _serve(self, request: Request, luck: float, *, stalls: bool = False) -> dict[str, Any]:
        """The way to the server, its queue, and the way back."""
        machine, chance = self._machine, self._machine.chance
        await asyncio.sleep(chance.uniform(0.0, machine.late_s) if virtual() < machine.late_until else 0.002)
        if virtual() < max(machine.cut_until, self._api.down_until):
            await asyncio.sleep(3600)
        received = virtual()
        if (virtual() < machine.slow_until or stalls) and luck < 0.5:
            await asyncio.sleep(chance.uniform(0.0, 60.0))
        deadline_s = request_deadline_s(request)
        if virtual() - received > deadline_s:
            raise Refused(504, "Timeout: request did not complete within requested timeout")
        answer = self._handle(request)
        if virtual() < machine.slow_until and luck < 0.1:
            await asyncio.sleep(3600)  # the answer is lost
        return answer

    def _handle(self, request: Request) -> dict[str, Any]:
        answer = self._api.handle(request)
        if request.method != "GET":
            self._arrived(Arrival(virtual(), self._who, request))
        return answer

    def _carried_out(self, request: Request) -> dict[str, Any]:
        try:
            return self._handle(request)
        except Refused as exc:
            raise error_of(exc.status, {"message": str(exc)}, str(request)) from exc

    @asynccontextmanager
    async def stream(self, request: Request, *, duration_s: float, silence_s: float) -> AsyncIterator[_Lines]:
        """A watch, as lines of JSON."""
        await self._machine.awake()
        query = dict(parse_qsl(request.target.partition("?")[2]))
        plural, namespace, *_ = split_path(request.path)
        version, selector = int(query.get("resourceVersion") or 0), query.get("labelSelector", "")
        if not version:  # it begins with every object that exists
            present = [{"type": "ADDED", "object": body} for body in self._api.select(plural, namespace, selector)]
            version = self._api.version
        else:
            present = []
        lines = _Lines(self, present, plural, namespace, selector, version, query)
        try:
            yield lines
        finally:
            await lines.close()

    async def events(
        self, plural: str, namespace: str | None, selector: str, version: int
    ) -> AsyncIterator[dict[str, Any]]:
        """Events as this process gets them. Raises Refused or Unreachable when the watch ends."""
        async for event in self._api.watch(plural, namespace, selector, version):
            await self._machine.awake()
            if virtual() < self._machine.blind_until:
                continue
            if virtual() < self._machine.cut_until:
                await self._machine.sleep(self._machine.cut_until - virtual())
                if self._machine.chance.random() < 0.5:
                    raise Unreachable("the watch is broken")
            yield event


class _Lines:
    """The body of a watch: lines of JSON, with a bookmark each minute."""

    def __init__(
        self,
        connection: SimulatedConnection,
        present: list[dict[str, Any]],
        plural: str,
        namespace: str | None,
        selector: str,
        version: int,
        query: dict[str, str],
    ) -> None:
        self._present, self._api = present, connection._api
        self._events = aiter(connection.events(plural, namespace, selector, version))
        self._pending: asyncio.Task[dict[str, Any]] | None = None
        self._ends = virtual() + float(query.get("timeoutSeconds") or 300)

    async def readany(self) -> bytes:
        if self._present:
            return json.dumps(self._present.pop(0)).encode() + b"\n"
        if virtual() >= self._ends:
            return b""
        if self._pending is None:
            self._pending = asyncio.ensure_future(anext(self._events))
        await asyncio.wait({self._pending}, timeout=min(BOOKMARK_S, self._ends - virtual()))
        if not self._pending.done():
            bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self._api.version)}}}
            return json.dumps(bookmark).encode() + b"\n"
        pending, self._pending = self._pending, None
        try:
            return json.dumps(pending.result()).encode() + b"\n"
        except Refused as exc:
            error = {"code": exc.status, "message": str(exc)}
            return json.dumps({"type": "ERROR", "object": error}).encode() + b"\n"

    async def close(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)


def request_deadline_s(request: Request) -> float:
    """Longest time that the API server works on a request: a minute, or what the request asks for."""
    text = request.query.get("timeout", "")
    return float(text.removesuffix("ms")) / 1000 if text else 60.0


class SimulatedClient(KubeClient):
    """The real client, on a simulated connection."""

    def __init__(self, connection: SimulatedConnection, manager: str = "kigi") -> None:
        self._connection = cast(Any, connection)
        self._manager = manager
        self.guard = None
        self.after_write = None
        self.writes = 0


class ActorsClient(SimulatedClient):
    """A client of what is not disturbed: it watches without the way through JSON."""

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, resource_version: str, **_: Any
    ) -> AsyncGenerator[WatchEvent, None]:
        """Every object that exists, and later changes; ends when the server is restored."""
        connection = cast(SimulatedConnection, self._connection)
        version = connection._api.version
        for body in [copied(each) for each in connection._api.select(resource.plural, namespace, resource.selector)]:
            yield WatchEvent("ADDED", body)
        with contextlib.suppress(Refused):
            async for event in connection.events(resource.plural, namespace, resource.selector, version):
                yield WatchEvent(event["type"], copied(event["object"]))


class _Probe:
    """An S3 server that answers."""

    async def read(self, *_: object) -> None:
        return

    async def write(self, *_: object) -> ConditionalWrites:
        return ConditionalWrites.SUPPORTED


@dataclass
class SimulatedOperator:
    """One operator process. ``stop`` is like SIGTERM, without ``release`` like SIGKILL."""

    api: SimulatedApi
    name: str
    machine: Machine
    arrived: Callable[[Arrival], None]
    ports: Ports = field(init=False)
    election: Election = field(init=False)
    ended: Callable[[], None]
    """Called when the process has ended by itself, because the cluster was restored."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    """The first one leads."""
    is_ending: bool = False

    def start(self) -> None:
        """Starts election, work and watches."""
        self.is_ending = False
        settings = Settings(identity=self.name, hook_image="kigi:dev")
        machine, loop = self.machine, asyncio.get_running_loop()
        kube = SimulatedClient(SimulatedConnection(self.api, self.name, machine, self.arrived))
        lease = SimulatedClient(
            SimulatedConnection(self.api, self.name, machine, self.arrived, timeout_s=settings.lease_s / 3)
        )
        queue = WorkQueue(clock=loop.time, schedule=machine.call_later, jitter=lambda: machine.chance.uniform(0.8, 1.2))
        self.ports = Ports(
            kube=kube,
            mirror=Mirror(loop.time),
            queue=queue,
            settings=settings,
            now=machine.now,
            clock=loop.time,
            suffix=lambda: f"{machine.chance.randrange(16**16):016x}",
            probe=cast(Any, _Probe()),
        )
        self.election = Election(
            lease,
            namespace=settings.namespace,
            identity=self.name,
            lease_s=settings.lease_s,
            clock=loop.time,
            now=machine.now,
            sleep=machine.sleep,
        )
        kube.guard = self.election.guard
        self.tasks = [
            asyncio.create_task(self._lead()),
            asyncio.create_task(heartbeats.watch_heartbeats(self.ports)),
            *(asyncio.create_task(self._follow(resource)) for resource in CHILDREN),
            *(asyncio.create_task(self._watch(resource)) for resource in process.FEED),
        ]

    async def _lead(self) -> None:
        """As ``run_operator``: a process that ends gives up its lease."""
        try:
            await process._lead(self.ports, self.election)
        except ClusterRestored:
            await self._end()

    async def _follow(self, resource: Resource) -> None:
        try:
            await children.ChildWatch(self.ports, resource).run()
        except ClusterRestored:
            await self._end()

    async def _end(self) -> None:
        """As ``run_operator``: the first task that ends stops the work, and then gives up the lease."""
        if self.is_ending:
            return
        self.is_ending = True
        leading = self.tasks[0]
        if asyncio.current_task() is not leading:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
        await self.election.release()
        self.ended()

    async def stop(self) -> None:
        """Ends it, and raises the error of a task that had ended by itself."""
        done = [task for task in self.tasks if task.done()]
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        for task in done:
            if not task.cancelled():
                task.result()

    async def _watch(self, resource: Resource) -> None:
        """As kopf: lists, watches from there, and lists again after an error. It reports no deletion that it missed."""
        seen = feed._handler(self.ports, resource)
        connection = cast(SimulatedConnection, self.ports.kube._connection)
        while True:
            with contextlib.suppress(KigiError, Refused):
                items, version = await self.ports.kube.list_version(resource, limit=PAGE)
                for item in items:
                    await seen({"type": None, "object": item})
                async for event in connection.events(resource.plural, None, resource.selector, int(version)):
                    await seen(event)
            await self.machine.sleep(RESTART_S)


def holder_of(api: SimulatedApi) -> str:
    """The process that the lease names."""
    lease = api.objects.get(("leases", "kigi-system", LEASE_NAME))
    return str(lease["spec"].get("holderIdentity") or "") if lease else ""
