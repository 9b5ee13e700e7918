"""A restart ends exactly the instance that was decided on, and is not requested again while that takes its time."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.planning.steps import RestartMachine
from kigi.reconcilers.restarts import RESTART_RETRY_S, restart_machine
from kigi.runtime.ports import Ports
from tests.support.bodies import NS, target, vmi_body
from tests.support.fake_time import FakeTime
from tests.support.memory_api import MemoryApi, memory_ports

NAME = "dep-0-m"
STEP = RestartMachine(NS, NAME, "vmi-1")
RESTART = ("restart", "VirtualMachine", NAME)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def ports(api: MemoryApi, time: FakeTime) -> Ports:
    return memory_ports(api, time)


def instance(api: MemoryApi, ports: Ports, uid: str = "vmi-1", **meta: Any) -> None:
    body = vmi_body(target(), uid=uid)
    ports.mirror.put(body["kind"], api.put({**body, "metadata": {**body["metadata"], **meta}}))


async def test_a_running_instance_is_restarted_once_until_it_has_had_its_time(
    api: MemoryApi, ports: Ports, time: FakeTime
) -> None:
    instance(api, ports)
    await restart_machine(ports, STEP)
    time.advance(RESTART_RETRY_S - 0.1)
    await restart_machine(ports, STEP)
    assert api.log == [RESTART]
    time.advance(0.2)
    await restart_machine(ports, STEP)
    assert api.log == [RESTART, RESTART]


async def test_a_graceful_restart_is_requested_as_such(api: MemoryApi, ports: Ports) -> None:
    instance(api, ports)
    await restart_machine(ports, RestartMachine(NS, NAME, "vmi-1", gracefully=True))
    assert api.log == [("restart gracefully", "VirtualMachine", NAME)]


async def test_the_successor_is_left_alone_and_known_afterwards(api: MemoryApi, ports: Ports) -> None:
    instance(api, ports)
    api.put(vmi_body(target(), uid="vmi-2"))
    await restart_machine(ports, STEP)
    assert api.log == []
    record = ports.mirror.vmis.get(NS, NAME)
    assert record is not None
    assert record.meta.uid == "vmi-2"


async def test_a_missing_vmi_is_removed_from_the_mirror(api: MemoryApi, ports: Ports) -> None:
    instance(api, ports)
    api.objects.clear()
    await restart_machine(ports, STEP)
    assert api.log == []
    assert ports.mirror.vmis.get(NS, NAME) is None


async def test_an_instance_that_is_ending_needs_no_restart(api: MemoryApi, ports: Ports) -> None:
    instance(api, ports, deletionTimestamp="2026-01-01T00:00:00Z")
    await restart_machine(ports, STEP)
    assert api.log == []


async def test_where_kubevirt_serves_no_restart_the_instance_is_deleted_by_its_uid(
    api: MemoryApi, ports: Ports
) -> None:
    instance(api, ports, finalizers=["kubevirt"])
    api.serves_restarts = False
    await restart_machine(ports, STEP)
    assert api.log == [RESTART, ("delete", "VirtualMachineInstance", NAME)]
    record = ports.mirror.vmis.get(NS, NAME)
    assert record is not None
    assert record.meta.deleting


async def test_old_requests_are_forgotten(api: MemoryApi, ports: Ports, time: FakeTime) -> None:
    ports.restarted = {f"old-{number}": time() for number in range(100)}
    time.advance(2 * RESTART_RETRY_S)
    instance(api, ports)
    await restart_machine(ports, STEP)
    assert list(ports.restarted) == ["vmi-1"]
