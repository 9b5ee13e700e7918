"""The order of steps: groups one after another, machines of a group in parallel, and what an error leaves undone."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, cast

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.domain import names
from kigi.errors import Conflict, KigiError, NotFound, Unreachable
from kigi.planning.steps import ApplyObject, DeleteObject, EmitEvent, PauseMachine, Step
from kigi.reconcilers.apply import apply_steps
from kigi.runtime.ports import Ports
from tests.support.bodies import NS, claim_body, target, volume_body
from tests.support.memory_api import MemoryApi, memory_ports


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def ports(api: MemoryApi) -> Ports:
    return memory_ports(api)


def created(body: dict[str, Any]) -> dict[str, Any]:
    """A manifest without what the API server adds."""
    meta = {
        key: value for key, value in body["metadata"].items() if key not in ("uid", "resourceVersion", "generation")
    }
    return {key: value for key, value in {**body, "metadata": meta}.items() if key != "status"}


def disk_steps(machine: str) -> list[Step]:
    desired = target(machine)
    return [ApplyObject(created(volume_body(desired))), ApplyObject(created(claim_body(desired)))]


def kinds_of(api: MemoryApi, machine: str) -> list[str]:
    return [kind for _, kind, name in api.log if machine in name.split(".")]


async def test_a_machines_volume_comes_before_its_claim_whatever_others_do(api: MemoryApi, ports: Ports) -> None:
    machines = [f"m{number}" for number in range(50)]
    await apply_steps(ports, [step for machine in machines for step in disk_steps(machine)])
    for machine in machines:
        assert kinds_of(api, machine) == ["PersistentVolume", "PersistentVolumeClaim"]


@pytest.mark.parametrize("error", [None, Conflict("paused"), NotFound("gone"), Unreachable("down")])
async def test_a_vm_that_is_paused_or_gone_need_not_be_paused(ports: Ports, error: KigiError | None) -> None:
    asked: list[tuple[str, str, str]] = []

    class Kube:
        async def vmi_request(self, namespace: str, name: str, verb: str) -> None:
            asked.append((namespace, name, verb))
            if error is not None:
                raise error

    ports = replace(ports, kube=cast(KubeClient, Kube()))
    with pytest.raises(Unreachable) if isinstance(error, Unreachable) else contextlib.nullcontext():
        await apply_steps(ports, [PauseMachine(NS, "dep-0-m", "m")])
    assert asked == [(NS, "dep-0-m", "pause")]


async def test_an_error_stops_its_machine_and_the_next_group_only(api: MemoryApi, ports: Ports) -> None:
    failing = created(volume_body(target("bad")))["metadata"]["name"]
    api.fail = [("create", failing, Unreachable("down"))]
    steps = [*disk_steps("bad"), *disk_steps("good"), DeleteObject("VirtualMachine", "vm", NS)]
    ports.mirror.put("VirtualMachine", api.put(_vm()))
    with pytest.raises(Unreachable):
        await apply_steps(ports, steps)
    assert kinds_of(api, "bad") == ["PersistentVolume"], "the claim depends on the volume"
    assert kinds_of(api, "good") == ["PersistentVolume", "PersistentVolumeClaim"]
    assert not [entry for entry in api.log if entry[0] == "delete"]


async def test_deletions_of_different_kinds_are_groups_of_their_own(api: MemoryApi, ports: Ports) -> None:
    claim, volume = claim_body(target()), volume_body(target())
    for body in (_vm(), claim, volume):
        ports.mirror.put(body["kind"], api.put(body))
    await apply_steps(
        ports,
        [
            DeleteObject("VirtualMachine", "vm", NS),
            DeleteObject("PersistentVolumeClaim", claim["metadata"]["name"], NS),
            DeleteObject("PersistentVolume", volume["metadata"]["name"]),
        ],
    )
    assert [kind for _, kind, _ in api.log] == ["VirtualMachine", "PersistentVolumeClaim", "PersistentVolume"]


async def test_steps_may_be_done_twice(api: MemoryApi, ports: Ports) -> None:
    steps = [*disk_steps("m"), EmitEvent("Normal", "Reason", "message")]
    await apply_steps(ports, steps)
    objects = dict(api.objects)
    await apply_steps(ports, steps)
    assert api.objects == objects


def _vm() -> dict[str, Any]:
    labels = {names.LABEL_DEPLOYMENT: "dep"}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "vm", "namespace": NS, "labels": labels},
    }
