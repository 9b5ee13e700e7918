from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from kigi_cache.disks import grpc_server, registration
from kigi_cache.disks.registration import Registration
from kigi_cache.rpc import registration_pb2 as pb
from tests.support.cluster import eventually_async


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(registration, "RETRY_S", 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry" / "disk.kigi.dev-reg.sock"


@pytest.fixture
async def served(path: Path) -> AsyncIterator[Registration]:
    made = Registration(str(path.parent), "/var/lib/kubelet/plugins/disk.kigi.dev/csi.sock")
    task = asyncio.create_task(made.run())
    await eventually_async(path.exists)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


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


async def test_the_kubelet_is_told_where_the_driver_listens(served: Registration, path: Path) -> None:
    found = await info(path)
    assert (found.type, found.name) == ("CSIPlugin", "disk.kigi.dev")
    assert found.endpoint == "/var/lib/kubelet/plugins/disk.kigi.dev/csi.sock"
    assert list(found.supported_versions) == ["1.0.0"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_a_stale_socket_is_replaced_at_start(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    task = asyncio.create_task(Registration(str(path.parent), "/csi.sock").run())
    assert (await info(path)).endpoint == "/csi.sock"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_socket_that_was_taken_away_comes_back(served: Registration, path: Path) -> None:
    path.unlink()
    await eventually_async(path.exists)
    assert (await info(path)).name == "disk.kigi.dev"


async def test_a_directory_that_was_emptied_comes_back(served: Registration, path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    await eventually_async(path.exists)
    assert (await info(path)).name == "disk.kigi.dev"


async def test_a_refusal_shows_the_socket_anew(served: Registration, path: Path) -> None:
    before = path.stat().st_ctime_ns
    refused = pb.RegistrationStatus(plugin_registered=False, error="no")
    await call(path, "NotifyRegistrationStatus", refused, pb.RegistrationStatusResponse)
    assert not served.registered
    await eventually_async(lambda: path.exists() and path.stat().st_ctime_ns != before)
    accepted = pb.RegistrationStatus(plugin_registered=True)
    await call(path, "NotifyRegistrationStatus", accepted, pb.RegistrationStatusResponse)
    assert served.registered
