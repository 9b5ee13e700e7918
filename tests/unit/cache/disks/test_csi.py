from __future__ import annotations

import asyncio
import gc
import json
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
from kigi_cache.clock import Clock
from kigi_cache.disks.csi import NodePlugin
from kigi_cache.disks.grpc_server import SocketServer
from kigi_cache.disks.volumes import Usage
from kigi_cache.rpc import csi_pb2 as pb
from tests.support.cluster import eventually_async
from tests.support.manual_clock import ManualClock

DIGESTS = [f"sha256:{digit * 64}" for digit in "abc"]
CHAIN = [{"digest": d, "sizeBytes": 400, "virtualSizeBytes": 1024, "repository": "default"} for d in DIGESTS]


def released() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


class Filler:
    """Fills immediately, or when ``release`` is set."""

    def __init__(self) -> None:
        self.error: KigiError | None = None
        self.begun, self.release = asyncio.Event(), released()
        self.filled: list[Chain] = []
        self.calls = 0
        self.ended = asyncio.Event()

    async def ensure(self, chain: Chain) -> None:
        self.calls += 1
        self.begun.set()
        await self.release.wait()
        self.ended.set()
        if self.error:
            raise self.error
        self.filled.append(chain)

    def describe(self, chain: Chain) -> str:
        return "1 of 3 layers (1.0 MiB of 3.0 MiB)"


class Volumes:
    """Records the calls; publishes immediately, or when ``release`` is set."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.error: KigiError | None = None
        self.begun, self.release = asyncio.Event(), released()

    async def publish(self, handle: str, chain: Chain, target: str) -> None:
        self.begun.set()
        await self.release.wait()
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
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self.changes = 0
        self.changed, self.answered = asyncio.Event(), asyncio.Event()

    def called(self, method: str, code: str, seconds: float) -> None:
        self.codes.append((method, code))
        self.seconds.append(seconds)
        self.answered.set()

    def volumes_changed(self) -> None:
        self.changes += 1
        self.changed.set()

    def failed(self, handle: str, error: KigiError) -> None:
        self.failures.append(error.reason)


class Driver:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.filler, self.volumes, self.observer = Filler(), Volumes(), Observer()
        self.time = ManualClock()

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
        plugin = NodePlugin(
            "node-a",
            made.volumes,  # type: ignore[arg-type]
            made.filler,
            made.observer,
            clock=made.time.clock,
        )
        server = SocketServer(f"{tmp_path}/csi.sock", plugin.services(), clock=Clock())
        task = asyncio.create_task(server.run(ready.set))
        await ready.wait()
        yield made
        made.filler.release.set()
        made.volumes.release.set()
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
async def test_each_error_has_its_code_and_its_cause(
    driver: Driver, error: KigiError, code: StatusCode, where: str
) -> None:
    (driver.filler if where == "fill" else driver.volumes).error = error
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await driver.publish()
    assert (refused.value.code(), refused.value.details()) == (code, f"{error.reason}: {error}")
    assert driver.observer.failures == [error.reason]
    assert driver.observer.codes == [("NodePublishVolume", code.name)]


async def test_a_long_fill_is_answered_before_the_deadline_and_goes_on(driver: Driver) -> None:
    driver.filler.release.clear()
    call = asyncio.ensure_future(driver.publish(timeout_s=60))
    await driver.filler.begun.wait()
    end_s = await driver.time.next_wake()
    assert 50 < end_s < 56, "5 s before the caller's deadline"
    driver.time.advance(end_s)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() == StatusCode.ABORTED
    assert "1 of 3 layers" in str(refused.value.details())
    assert driver.volumes.calls == []
    assert driver.observer.seconds == [end_s]
    driver.filler.release.set()
    await driver.publish()
    assert driver.filler.filled[0][-1].digest == DIGESTS[2], "the first fill went on"
    assert len(driver.volumes.calls) == 1


async def test_a_call_without_a_deadline_waits_less_than_two_minutes(driver: Driver) -> None:
    driver.filler.release.clear()
    call = asyncio.ensure_future(driver.publish(timeout_s=None))
    await driver.filler.begun.wait()
    assert await driver.time.next_wake() == 110.0
    driver.time.advance(110.0)
    with pytest.raises(grpc.aio.AioRpcError, match="layers are being fetched"):
        await call


async def test_calls_that_give_up_on_a_long_fill_share_one_task(driver: Driver) -> None:
    """The kubelet asks for a volume each two minutes, for as long as its layers take: hours, from a store far away."""
    driver.filler.release.clear()
    for _ in range(20):
        call = asyncio.ensure_future(driver.publish(timeout_s=None))
        driver.time.advance(await driver.time.next_wake() - driver.time.now_s)
        with pytest.raises(grpc.aio.AioRpcError, match="being fetched"):
            await call
    assert driver.filler.calls == 1
    driver.filler.error = RepositoryUnreachable("gone")
    call = asyncio.ensure_future(driver.publish(timeout_s=None))
    await driver.time.next_wake()
    driver.filler.release.set()
    with pytest.raises(grpc.aio.AioRpcError, match="gone"):
        await call
    driver.filler.error = None
    await driver.publish()
    assert driver.filler.calls == 2, "after the end of a fill, the next call starts another"


async def test_an_error_of_a_fill_that_no_call_waits_for_is_no_traceback(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()
    caplog.clear()
    driver.filler.release.clear()
    call = asyncio.ensure_future(driver.publish(timeout_s=None))
    driver.time.advance(await driver.time.next_wake())
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    driver.filler.error = RepositoryUnreachable("gone")
    driver.filler.release.set()
    await driver.filler.ended.wait()
    await asyncio.sleep(0)
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_a_caller_that_hangs_up_while_layers_come_gets_no_mount(driver: Driver) -> None:
    driver.filler.release.clear()
    call = asyncio.ensure_future(driver.publish(timeout_s=None))
    await driver.filler.begun.wait()
    call.cancel()
    await driver.observer.answered.wait()
    driver.filler.release.set()
    await until(lambda: bool(driver.filler.filled))
    assert not driver.volumes.begun.is_set()
    assert driver.observer.codes == [("NodePublishVolume", "CANCELLED")]


async def test_a_mount_that_began_is_finished_when_the_caller_hangs_up(driver: Driver) -> None:
    driver.volumes.release.clear()
    call = asyncio.ensure_future(driver.publish())
    await driver.volumes.begun.wait()
    call.cancel()
    await driver.observer.answered.wait()
    driver.volumes.release.set()
    await driver.observer.changed.wait()
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


async def test_the_driver_identifies_itself_and_its_node(driver: Driver) -> None:
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
