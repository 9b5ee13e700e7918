"""Fault injection: each file-system call of the daemon fails with each error, once or from then on.

A case runs a whole daemon in this process, with its CSI socket, in time that passes 200 times faster: layers are
fetched, disks published, captured, unpublished and discarded, layers read again, and the daemon restarts. Meanwhile one
call fails. Then the fault is repaired. What must hold: the daemon and all its tasks run, each CSI call is answered
within 5 s, and the node gets into the desired state without help.

    python -m tests.campaigns.faults --seed 1 --cases 3000 > faults.json
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import grpc

from kigi.api.base import Metadata
from kigi.api.node_cache import CaptureOrder, NodeCache, NodeCacheSpec, NodeCacheStatus
from kigi.domain.layers import Chain, Layer, digest_hex
from kigi.domain.node_protocol import PROTOCOL
from kigi_cache import daemon as daemon_module
from kigi_cache.clock import Clock
from kigi_cache.daemon import Daemon
from kigi_cache.node.kube import Seen
from kigi_cache.rpc import csi_pb2 as pb
from kigi_cache.settings import DaemonSettings
from tests.support.chains import run
from tests.support.daemons import publish_request
from tests.support.fake_mounts import FakeMounts
from tests.support.faulty_files import Call, Faults, faulty_files
from tests.support.layers import wanted
from tests.support.stored import VIRTUAL_BYTES, content, layer_of

ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EROFS", "EMFILE", "EDQUOT")}
SPEED = 200.0
ANSWER_S = 5.0
CONVERGE_S = 20.0
FIRST, SECOND, LAST = (f"kigi.a.b.0.m{n}.r1.aaaaaaaa" for n in range(3))
TASKS = ("recover", "filler", "persist layers", "verify layers", "fill", "scrub", "repositories")
TASKS += ("overlay space", "node-cache", "follow NodeCache", "keep NodeCache", "events", "csi", "http")
ENDING = {"recover", "repositories"}
"""Tasks that have nothing to do after their work."""


@dataclass
class Case:
    """One fault and what came of it; an empty ``failure`` is what must be."""

    call: Call
    nth: int
    error: str
    lasting: bool
    injected: int = 0
    seconds: float = 0.0
    slowest_answer_s: float = 0.0
    failure: str = ""


def fast_clock() -> Clock:
    """Time that passes SPEED times faster."""
    began = time.monotonic()
    return Clock(
        time.time,
        lambda: began + (time.monotonic() - began) * SPEED,
        lambda seconds: asyncio.sleep(max(0.0, seconds) / SPEED),
        lambda seconds: time.sleep(max(0.0, seconds) / SPEED),
    )


class Source:
    """The repository: three layers in memory."""

    def __init__(self) -> None:
        self.data = {(layer := layer_of(content(number))).digest: (layer, content(number)) for number in range(3)}
        self.chains: list[Chain] = [(layer,) for layer, _ in self.data.values()]

    def read(self, layer: Layer, start: int, is_urgent: object = None) -> Iterator[memoryview]:
        yield memoryview(bytearray(self.data[layer.digest][1][start:]))

    def distrust(self, digest: str) -> None:
        pass

    def done(self, digest: str) -> None:
        pass


class Api:
    """The NodeCache in memory."""

    def __init__(self) -> None:
        self.spec = NodeCacheSpec(node_name="n", operator_protocol=PROTOCOL, protocol=PROTOCOL)
        self.generation = 1
        self.status = NodeCacheStatus()
        self._news = asyncio.Event()

    def put(self, **fields: Any) -> None:
        self.spec = self.spec.model_copy(update=fields)
        self.generation += 1
        self._news.set()

    def _cache(self) -> NodeCache:
        metadata = Metadata(name="n", uid="u", generation=self.generation)
        return NodeCache(metadata=metadata, spec=self.spec, status=self.status)

    async def get(self) -> Seen:
        return Seen(self._cache(), "1")

    async def watch(self, version: str) -> AsyncIterator[NodeCache | None]:
        while True:
            self._news.clear()
            yield self._cache()
            await self._news.wait()

    async def write_status(self, status: NodeCacheStatus) -> None:
        self.status = status

    async def renew_lease(self, owner: Metadata, certificates: Sequence[str] = ()) -> None:
        pass

    async def warn(self, uid: str, reason: str, message: str) -> None:
        pass


class TestedDaemon(Daemon):
    """The daemon with a repository in memory."""

    source: Source

    def _source(self, api: Any) -> Any:
        return self.source

    async def prepare(self) -> None:
        await self._lock.acquire(self._clock)


@dataclass
class World:
    """One node: its directory, API server, mounts and the running daemon."""

    directory: Path
    faults: Faults
    source: Source
    overlays: dict[str, bytes]
    api: Api = field(default_factory=Api)
    slowest_s: float = 0.0
    daemon: TestedDaemon | None = None
    running: asyncio.Task[None] | None = None
    budget: str = "1Gi"
    refusal: str = ""
    """Text of the last error of a call."""

    async def start(self) -> None:
        root = self.directory / "cache"
        settings = DaemonSettings.model_validate(
            {
                "NODE_NAME": "n",
                "KIGI_CACHE_ROOT": root,
                "KIGI_BUDGET_BYTES": self.budget,
                "KIGI_MIN_FREE": "0",
                "KIGI_CSI_SOCKET": str(self.directory / "csi.sock"),
                "KIGI_HTTP_ADDR": "127.0.0.1:0",
            }
        )
        made = None
        while made is None:
            try:
                TestedDaemon.source = self.source
                made = TestedDaemon(settings, self.api, fast_clock())  # type: ignore[arg-type]
                await made.prepare()
            except OSError:  # as the process does: it ends, and the kubelet starts it again
                self.faults.lasting = False
                made = None
        self.daemon = made
        socket = self.directory / "csi.sock"
        socket.unlink(missing_ok=True)
        self.running = asyncio.create_task(self.daemon.run())
        for _ in range(200):
            if socket.exists():
                return
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        assert self.daemon is not None
        assert self.running is not None
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.daemon.close()

    async def call(self, method: str, request: Any, answer: Any) -> bool:
        """Whether a CSI call succeeds. Measures the time of its answer."""
        began = time.monotonic()
        try:
            async with grpc.aio.insecure_channel(f"unix:{self.directory}/csi.sock") as channel:
                invoke = channel.unary_unary(
                    f"/csi.v1.{method}",
                    request_serializer=type(request).SerializeToString,
                    response_deserializer=answer.FromString,
                )
                await invoke(request, timeout=ANSWER_S + 2, wait_for_ready=True)
            return True
        except grpc.aio.AioRpcError as exc:
            self.refusal = exc.details() or ""
            if exc.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                self.slowest_s = max(self.slowest_s, ANSWER_S + 2)
            return False
        finally:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    async def publish(self, handle: str, number: int) -> bool:
        request = publish_request(handle, self.target(handle), self.source.chains[number])
        return await self.call("Node/NodePublishVolume", request, pb.NodePublishVolumeResponse)

    async def unpublish(self, handle: str) -> bool:
        request = pb.NodeUnpublishVolumeRequest(volume_id=handle, target_path=self.target(handle))
        return await self.call("Node/NodeUnpublishVolume", request, pb.NodeUnpublishVolumeResponse)

    def target(self, handle: str) -> str:
        return str(self.directory / "pods" / handle / "mount")

    async def create_overlay(self, path: Path, backing: str, size: int) -> None:
        path.write_bytes(self.overlays[backing])

    def dead_tasks(self) -> list[str]:
        alive = {task.get_name() for task in asyncio.all_tasks()}
        ended = [name for name in TASKS if name not in alive | ENDING]
        return ["daemon"] if self.running is None or self.running.done() else ended


async def use(world: World) -> None:
    """The life of a node, each step tried a few times, whether it succeeds or not."""
    source, api = world.source, world.api
    await world.start()
    layers = [layer for chain in source.chains[:2] for layer in wanted(chain)]
    api.put(layers=layers)
    await several(lambda: world.publish(FIRST, 0))
    await several(lambda: world.publish(SECOND, 1))
    await several(lambda: world.unpublish(FIRST))
    order = CaptureOrder(
        id="c1",
        volume=FIRST,
        parent_digest=source.chains[0][0].digest,
        virtual_size_bytes=VIRTUAL_BYTES,
        repository_name="default",
        action="Copy",
        mounted=False,
    )
    api.put(captures=[order])
    await several(lambda: said(any(report.state in ("Copied", "Refused") for report in api.status.captures)))
    await several(lambda: world.publish(FIRST, 0))
    await several(lambda: world.unpublish(FIRST))
    api.put(captures=[], discard_volumes=[FIRST])
    await several(lambda: said(not any(volume.name == FIRST for volume in api.status.volumes)))
    assert world.daemon is not None
    await world.daemon._filler.scrub(-1.0)
    await world.stop()
    await world.start()
    await several(lambda: world.publish(SECOND, 1))


async def said(answer: bool) -> bool:
    return answer


async def several(step: Callable[[], Any]) -> None:
    for _ in range(6):
        if await step():
            return
        await asyncio.sleep(0.02)


async def judge(world: World) -> str:
    """After the repair: what is not as it must be; empty if all is."""
    world.faults.heal()
    world.api.put(layers=[layer for chain in world.source.chains for layer in wanted(chain)], discard_volumes=[FIRST])
    deadline = time.monotonic() + CONVERGE_S
    left = "start"
    while time.monotonic() < deadline:
        left = await missing(world)
        if not left:
            return f"an answer took {world.slowest_s:.1f} s" if world.slowest_s > ANSWER_S else ""
        await asyncio.sleep(0.02)
    return left


async def missing(world: World) -> str:
    dead = world.dead_tasks()
    if dead:
        return f"dead: {', '.join(dead)}"
    for handle, number in ((SECOND, 1), (LAST, 2)):
        if not await world.publish(handle, number):
            return f"{handle} is not published"
    held = {layer.digest for layer in world.api.status.layers if layer.state == "Held"}
    if held != set(world.source.data):
        return f"{len(held)} of 3 layers held"
    if {volume.name for volume in world.api.status.volumes} != {SECOND, LAST}:
        return f"volumes: {[volume.name for volume in world.api.status.volumes]}"
    if world.api.status.captures or world.api.status.observed_generation != world.api.generation:
        return "the status is not current"
    ready = [c.reason for c in world.api.status.conditions if c.type == "Ready" and c.status != "True"]
    return f"not ready: {ready[0]}" if ready else ""


def run_case(source: Source, overlays: dict[str, bytes], case: Case | None) -> Counter[Call]:
    """Run one case and fill in its result; returns the calls that were made. None: without a fault."""
    with tempfile.TemporaryDirectory(prefix="kigi-f-") as name:
        directory = Path(name)
        (directory / "cache").mkdir()
        mounts = FakeMounts()
        began = time.monotonic()
        with mounts.used(), faulty_files(directory / "cache") as faults:
            if case is not None:
                faults.call, faults.nth, faults.lasting = case.call, case.nth, case.lasting
                faults.number = ERRORS[case.error]

            async def play() -> str:
                world = World(directory, faults, source, overlays)
                with mock.patch.object(daemon_module, "create_overlay", world.create_overlay):
                    try:
                        await use(world)
                        failure = await judge(world)
                        await world.stop()
                    finally:
                        if case is not None:
                            case.slowest_answer_s = round(world.slowest_s, 2)
                return failure

            try:
                failure = asyncio.run(asyncio.wait_for(play(), 60))
            except Exception as exc:
                failure = f"{type(exc).__name__}: {exc}"
        if case is not None:
            case.failure, case.injected, case.seconds = failure, faults.injected, round(time.monotonic() - began, 2)
        elif failure:
            raise AssertionError(f"without a fault: {failure}")
        return faults.seen


def cases_of(calls: Counter[Call], chance: random.Random, count: int) -> list[Case]:
    """``count`` cases: every call with every error before any is repeated, at random places of its repetitions."""
    found: list[Case] = []
    while len(found) < count:
        round_ = [
            Case(call, chance.randrange(calls[call]), error, chance.random() < 0.5)
            for call in sorted(calls)
            for error in ERRORS
        ]
        chance.shuffle(round_)
        found.extend(round_)
    return found[:count]


def make_overlays(source: Source) -> dict[str, bytes]:
    """An empty overlay of each layer, by its backing file."""
    overlays: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as name:
        for layer, _ in source.data.values():
            backing, path = f"chain/{digest_hex(layer.digest)}.qcow2", Path(name, "o")
            run(
                "qemu-img",
                "create",
                "-q",
                "-u",
                "-f",
                "qcow2",
                "-b",
                backing,
                "-F",
                "qcow2",
                str(path),
                str(VIRTUAL_BYTES),
            )
            overlays[backing] = path.read_bytes()
    return overlays


def campaign(seed: int, count: int, seconds: float = float("inf")) -> dict[str, Any]:
    """Run cases until ``count`` or ``seconds`` are reached; the result as JSON's types."""
    source = Source()
    overlays = make_overlays(source)
    calls = run_case(source, overlays, None)
    deadline = time.monotonic() + seconds
    done: list[Case] = []
    for case in cases_of(calls, random.Random(seed), count):
        if time.monotonic() > deadline:
            break
        run_case(source, overlays, case)
        done.append(case)
    failed = [case for case in done if case.failure]
    return {
        "campaign": "faults",
        "seed": seed,
        "calls": len(calls),
        "cases": len(done),
        "injected": sum(case.injected for case in done),
        "without_injection": sum(case.injected == 0 for case in done),
        "failed": len(failed),
        "slowest_answer_s": max((case.slowest_answer_s for case in done), default=0.0),
        "errors": dict(Counter(case.error for case in done)),
        "failures": [asdict(case) for case in failed[:50]],
    }


def main() -> int:
    """Print the result; 1 if a case failed."""
    parser = argparse.ArgumentParser(description="Fault injection into the file-system calls of the cache daemon")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=7200.0, help="end after this time")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    result = campaign(arguments.seed, arguments.cases, arguments.seconds)
    json.dump(result, sys.stdout, indent=1)
    print()
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
