from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode

from kigi.domain.layers import Chain
from kigi.errors import (
    AccessDenied,
    BudgetExceeded,
    KigiError,
    LayerCorrupt,
    LayerRefused,
    NoRoom,
    OverlayMismatch,
    OverlayRejected,
    RepositoryUnreachable,
    VolumeBusy,
    VolumeInUse,
    VolumeUnknown,
)
from kigi_cache.disks.csi import NodePlugin, parse_chain
from kigi_cache.disks.grpc_server import SocketServer
from kigi_cache.disks.volumes import Usage
from kigi_cache.rpc import csi_pb2 as pb
from tests.support.cluster import eventually_async

DIGESTS = [f"sha256:{digit * 64}" for digit in "abc"]
CHAIN = [{"digest": d, "sizeBytes": 400, "virtualSizeBytes": 1024, "repository": "default"} for d in DIGESTS]


class Filler:
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.error: KigiError | None = None
        self.duration_s = 0.0
        self.filled: list[Chain] = []

    async def ensure(self, chain: Chain, *, priority: int) -> None:
        await asyncio.sleep(self.duration_s)
        if self.error:
            raise self.error
        self.filled.append(chain)

    def describe(self, chain: Chain) -> str:
        return "1 of 3 layers (1.0 MiB of 3.0 MiB)"


class Volumes:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.error: KigiError | None = None
        self.duration_s = 0.0

    async def publish(self, handle: str, chain: Chain, target: str) -> None:
        await asyncio.sleep(self.duration_s)
        if self.error:
            raise self.error
        self.calls.append(("publish", handle, chain[-1].digest, target))

    async def unpublish(self, handle: str, target: str) -> None:
        self.calls.append(("unpublish", handle, target))

    def usage(self, handle: str, path: str) -> Usage:
        if self.error:
            raise self.error
        return Usage(100, 900)


class Observer:
    def __init__(self) -> None:
        self.codes: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.changes = 0

    def called(self, method: str, code: str, seconds: float) -> None:
        self.codes.append((method, code))

    def volumes_changed(self) -> None:
        self.changes += 1

    def failed(self, handle: str, error: KigiError) -> None:
        self.failures.append(error.reason)


class Driver:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.filler, self.volumes, self.observer = Filler(), Volumes(), Observer()

    async def call(self, method: str, request: Any, answer: Any, timeout_s: float | None = 20) -> Any:
        invoke = self.channel.unary_unary(
            f"/csi.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return await invoke(request, timeout=timeout_s)

    async def publish(self, timeout_s: float | None = 20, **changes: Any) -> None:
        await self.call("Node/NodePublishVolume", request(**changes), pb.NodePublishVolumeResponse, timeout_s)


def request(**changes: Any) -> pb.NodePublishVolumeRequest:
    fields: dict[str, Any] = {
        "volume_id": "kigi.range.r1",
        "target_path": "/pods/a/mount",
        "volume_capability": capability(),
        "volume_context": {"chain": json.dumps(CHAIN)},
        **changes,
    }
    return pb.NodePublishVolumeRequest(**{key: value for key, value in fields.items() if value is not None})


def capability(mode: str = "SINGLE_NODE_WRITER", **mount: Any) -> pb.VolumeCapability:
    access = pb.VolumeCapability.AccessMode(mode=mode)  # type: ignore[arg-type]
    return pb.VolumeCapability(mount=pb.VolumeCapability.MountVolume(**mount), access_mode=access)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    ready = asyncio.Event()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/csi.sock") as channel:
        made = Driver(channel)
        plugin = NodePlugin("node-a", made.volumes, made.filler, made.observer)  # type: ignore[arg-type]
        task = asyncio.create_task(SocketServer(f"{tmp_path}/csi.sock", plugin.services()).run(ready.set))
        await ready.wait()
        yield made
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_good_request_fills_then_mounts(driver: Driver) -> None:
    await driver.publish()
    assert [layer.digest for layer in driver.filler.filled[0]] == DIGESTS
    assert [layer.parent for layer in driver.filler.filled[0]] == [None, *DIGESTS[:2]]
    assert driver.volumes.calls == [("publish", "kigi.range.r1", DIGESTS[2], "/pods/a/mount")]
    assert driver.observer.codes == [("NodePublishVolume", "OK")]
    assert driver.observer.changes == 1


BLOCK = pb.VolumeCapability(
    block=pb.VolumeCapability.BlockVolume(), access_mode=pb.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER")
)
BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "no volume id": {"volume_id": None},
    "volume id with a slash": {"volume_id": "../etc"},
    "volume id above": {"volume_id": ".."},
    "volume id too long": {"volume_id": "x" * 254},
    "volume id in capitals": {"volume_id": "Disk"},
    "volume id with a line end": {"volume_id": "disk\n"},
    "no target": {"target_path": None},
    "relative target": {"target_path": "pods/a"},
    "target above": {"target_path": "/pods/../etc"},
    "target is the root": {"target_path": "//"},
    "target with a zero": {"target_path": "/pods/\0"},
    "no capability": {"volume_capability": None},
    "no access type": {"volume_capability": pb.VolumeCapability()},
    "block": {"volume_capability": BLOCK},
    "many writers": {"volume_capability": capability("MULTI_NODE_MULTI_WRITER")},
    "reader only": {"volume_capability": capability("SINGLE_NODE_READER_ONLY")},
    "unknown mode": {"volume_capability": capability("UNKNOWN")},
    "fsType": {"volume_capability": capability(fs_type="ext4")},
    "mount flags": {"volume_capability": capability(mount_flags=["suid"])},
    "mount group": {"volume_capability": capability(volume_mount_group="107")},
    "read-only": {"readonly": True},
    "no chain": {"volume_context": {}},
    "chain is no JSON": {"volume_context": {"chain": "x"}},
}


@pytest.mark.parametrize("changes", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
async def test_a_bad_request_is_an_invalid_argument(driver: Driver, changes: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await driver.publish(**changes)
    assert refused.value.code() == StatusCode.INVALID_ARGUMENT
    assert refused.value.details()
    assert (driver.filler.filled, driver.volumes.calls) == ([], [])


async def test_a_volume_of_another_node_is_refused(driver: Driver) -> None:
    chain = json.dumps(CHAIN)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await driver.publish(volume_context={"chain": chain, "node": "node-b"})
    assert refused.value.code() == StatusCode.FAILED_PRECONDITION
    assert "is a volume of node node-b, and this is node-a" in str(refused.value.details())
    assert (driver.filler.filled, driver.volumes.calls) == ([], [])
    await driver.publish(volume_context={"chain": chain, "node": "node-a"})


BAD_CHAINS: dict[str, Any] = {
    "empty": [],
    "an object": {},
    "65 layers": [{**CHAIN[0], "digest": f"sha256:{n:064x}"} for n in range(65)],
    "a layer twice": [CHAIN[0], CHAIN[1], CHAIN[0]],
    "digest in capitals": [{**CHAIN[0], "digest": "sha256:" + "A" * 64}],
    "digest of another kind": [{**CHAIN[0], "digest": "sha512:" + "a" * 64}],
    "digest with a path": [{**CHAIN[0], "digest": "sha256:../" + "a" * 61}],
    "digest with a line end": [{**CHAIN[0], "digest": CHAIN[0]["digest"] + "\n"}],  # type: ignore[operator]
    "no digest": [{"sizeBytes": 1, "virtualSizeBytes": 512}],
    "no size": [{**CHAIN[0], "sizeBytes": 0}],
    "negative size": [{**CHAIN[0], "sizeBytes": -1}],
    "too big": [{**CHAIN[0], "sizeBytes": 2**60}],
    "size as a word": [{**CHAIN[0], "sizeBytes": "big"}],
    "odd virtual size": [{**CHAIN[0], "virtualSizeBytes": 513}],
    "shrinking": [CHAIN[0], {**CHAIN[1], "virtualSizeBytes": 512}],
    "repository with a slash": [{**CHAIN[0], "repository": "a/b"}],
}


@pytest.mark.parametrize("chain", BAD_CHAINS.values(), ids=BAD_CHAINS.keys())
def test_a_bad_chain_is_refused(chain: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_chain(json.dumps(chain))


def test_a_chain_that_would_fill_the_memory_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="at most"):
        parse_chain("[" * 10**6)


CODES: list[tuple[KigiError, StatusCode]] = [
    (BudgetExceeded("x"), StatusCode.RESOURCE_EXHAUSTED),
    (NoRoom("x"), StatusCode.RESOURCE_EXHAUSTED),
    (RepositoryUnreachable("x"), StatusCode.UNAVAILABLE),
    (LayerCorrupt("x"), StatusCode.UNAVAILABLE),
    (AccessDenied("x"), StatusCode.FAILED_PRECONDITION),
    (LayerRefused("magic", "x"), StatusCode.FAILED_PRECONDITION),
    (OverlayRejected("x"), StatusCode.FAILED_PRECONDITION),
    (OverlayMismatch("x"), StatusCode.FAILED_PRECONDITION),
    (VolumeInUse("x"), StatusCode.FAILED_PRECONDITION),
    (VolumeBusy("x"), StatusCode.ABORTED),
    (VolumeUnknown("x"), StatusCode.NOT_FOUND),
    (KigiError("x"), StatusCode.INTERNAL),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=[type(error).__name__ for error, _ in CODES])
@pytest.mark.parametrize("where", ["fill", "mount"])
async def test_each_error_has_its_code_and_says_why(
    driver: Driver, error: KigiError, code: StatusCode, where: str
) -> None:
    (driver.filler if where == "fill" else driver.volumes).error = error
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await driver.publish()
    assert (refused.value.code(), refused.value.details()) == (code, f"{error.reason}: {error}")
    assert driver.observer.failures == [error.reason]
    assert driver.observer.codes == [("NodePublishVolume", code.name)]


async def test_a_long_fill_is_answered_before_the_deadline_and_goes_on(driver: Driver) -> None:
    driver.filler.duration_s = 3.0
    started = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await driver.publish(timeout_s=5.2)
    assert time.monotonic() - started < 2.5
    assert refused.value.code() == StatusCode.ABORTED
    assert "1 of 3 layers" in str(refused.value.details())
    assert driver.volumes.calls == []
    await until(lambda: bool(driver.filler.filled))
    await driver.publish()
    assert len(driver.volumes.calls) == 1


async def test_a_caller_that_hangs_up_while_layers_come_gets_no_mount(driver: Driver) -> None:
    driver.filler.duration_s = 0.3
    call = asyncio.ensure_future(driver.publish(timeout_s=None))
    await asyncio.sleep(0.1)
    call.cancel()
    await until(lambda: bool(driver.filler.filled))
    await asyncio.sleep(0.1)
    assert driver.volumes.calls == []
    assert driver.observer.codes == [("NodePublishVolume", "CANCELLED")]


async def test_a_mount_that_began_is_finished_when_the_caller_hangs_up(driver: Driver) -> None:
    driver.volumes.duration_s = 0.3
    call = asyncio.ensure_future(driver.publish())
    await asyncio.sleep(0.1)
    call.cancel()
    await until(lambda: driver.observer.changes == 1)
    assert len(driver.volumes.calls) == 1


@pytest.mark.parametrize(
    "fields", [{}, {"volume_id": "a"}, {"target_path": "/x"}, {"volume_id": "A", "target_path": "/x"}]
)
async def test_unpublish_needs_volume_and_target(driver: Driver, fields: dict[str, str]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await driver.call(
            "Node/NodeUnpublishVolume", pb.NodeUnpublishVolumeRequest(**fields), pb.NodeUnpublishVolumeResponse
        )
    assert refused.value.code() == StatusCode.INVALID_ARGUMENT
    assert driver.volumes.calls == []


async def test_stats_are_the_overlays_own_bytes(driver: Driver) -> None:
    asked = pb.NodeGetVolumeStatsRequest(volume_id="a", volume_path="/x")
    answer = await driver.call("Node/NodeGetVolumeStats", asked, pb.NodeGetVolumeStatsResponse)
    assert [(u.unit, u.used, u.available, u.total) for u in answer.usage] == [(pb.VolumeUsage.BYTES, 100, 900, 1000)]


async def test_the_driver_says_what_it_is(driver: Driver) -> None:
    info = await driver.call("Identity/GetPluginInfo", pb.GetPluginInfoRequest(), pb.GetPluginInfoResponse)
    node = await driver.call("Node/NodeGetInfo", pb.NodeGetInfoRequest(), pb.NodeGetInfoResponse)
    assert dict(node.accessible_topology.segments) == {"topology.disk.kigi.dev/node": "node-a"}
    probe = await driver.call("Identity/Probe", pb.ProbeRequest(), pb.ProbeResponse)
    able = await driver.call(
        "Node/NodeGetCapabilities", pb.NodeGetCapabilitiesRequest(), pb.NodeGetCapabilitiesResponse
    )
    assert (info.name, node.node_id, node.max_volumes_per_node, probe.ready.value) == (
        "disk.kigi.dev",
        "node-a",
        0,
        True,
    )
    assert [c.rpc.type for c in able.capabilities] == [pb.NodeServiceCapability.RPC.GET_VOLUME_STATS]


async def test_what_is_not_offered_is_unimplemented(driver: Driver) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await driver.call("Node/NodeStageVolume", pb.ProbeRequest(), pb.ProbeResponse)
    assert refused.value.code() == StatusCode.UNIMPLEMENTED


async def until(check: Callable[[], bool]) -> None:
    await eventually_async(check, 10)
