from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from kigi_cache.disks.grpc_server import CHECK_INTERVAL_S
from kigi_cache.disks.registration import RETRY_S, Registration
from kigi_cache.rpc import registration_pb2 as pb
from tests.support.cluster import eventually_async
from tests.support.manual_clock import ManualClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry" / "disk.kigi.dev-reg.sock"


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


@asynccontextmanager
async def serving(path: Path, time: ManualClock, endpoint: str) -> AsyncIterator[Registration]:
    """A registration whose socket is bound, and which sleeps until the next check."""
    made = Registration(str(path.parent), endpoint, clock=time.clock)
    task = asyncio.create_task(made.run())
    assert await time.next_wake() == CHECK_INTERVAL_S
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def served(path: Path, time: ManualClock) -> AsyncIterator[Registration]:
    async with serving(path, time, "/var/lib/kubelet/plugins/disk.kigi.dev/csi.sock") as made:
        yield made


async def pass_check(time: ManualClock) -> None:
    """The time of the next check comes, and the check ends."""
    time.advance(await time.next_wake() - time.now_s)
    await time.next_wake()


async def call(path: Path, method: str, request: Any, answer: Any) -> Any:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        invoke = channel.unary_unary(
            f"/pluginregistration.Registration/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return await invoke(request, timeout=10, wait_for_ready=True)


async def info(path: Path) -> pb.PluginInfo:
    found: pb.PluginInfo = await call(path, "GetInfo", pb.InfoRequest(), pb.PluginInfo)
    return found


async def test_the_kubelet_gets_the_path_of_the_csi_socket(served: Registration, path: Path) -> None:
    found = await info(path)
    assert (found.type, found.name) == ("CSIPlugin", "disk.kigi.dev")
    assert found.endpoint == "/var/lib/kubelet/plugins/disk.kigi.dev/csi.sock"
    assert list(found.supported_versions) == ["1.0.0"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_a_stale_socket_is_replaced_at_start(path: Path, time: ManualClock) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with serving(path, time, "/csi.sock"):
        assert (await info(path)).endpoint == "/csi.sock"


async def test_a_socket_that_was_taken_away_comes_back(served: Registration, path: Path, time: ManualClock) -> None:
    path.unlink()
    await pass_check(time)
    assert (await info(path)).name == "disk.kigi.dev"


async def test_a_directory_that_was_emptied_comes_back(served: Registration, path: Path, time: ManualClock) -> None:
    path.unlink()
    path.parent.rmdir()
    await pass_check(time)
    assert (await info(path)).name == "disk.kigi.dev"


async def test_a_socket_that_is_there_is_left_alone(served: Registration, path: Path, time: ManualClock) -> None:
    before = path.stat().st_ctime_ns
    await pass_check(time)
    assert path.stat().st_ctime_ns == before


async def test_after_a_refusal_the_socket_is_bound_again(served: Registration, path: Path, time: ManualClock) -> None:
    before = path.stat().st_ctime_ns
    refused = pb.RegistrationStatus(plugin_registered=False, error="no")
    await call(path, "NotifyRegistrationStatus", refused, pb.RegistrationStatusResponse)
    assert not served.registered
    assert RETRY_S in time.pending()
    while time.now_s < RETRY_S:
        assert path.stat().st_ctime_ns == before
        await pass_check(time)
    await eventually_async(lambda: path.exists() and path.stat().st_ctime_ns != before)
    accepted = pb.RegistrationStatus(plugin_registered=True)
    await call(path, "NotifyRegistrationStatus", accepted, pb.RegistrationStatusResponse)
    assert served.registered
