"""Instances are reconciled at the same time; each decision sees those that are being carried out."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from kigi.adapters.kubernetes.resources import INSTANCE, VOLUME
from kigi.domain import names
from kigi.domain.images import Image
from kigi.errors import Unreachable
from kigi.gather.nodes import gather_nodes
from kigi.mirror.keys import Key
from kigi.reconcilers.instances import reconcile_instance
from kigi.runtime.ports import Ports
from tests.support.bodies import (
    GIB,
    NAME,
    NS,
    cache_body,
    chain_of,
    csi_node_body,
    deployment_body,
    image_body,
    instance_body,
    node_body,
    repository_body,
    system_body,
)
from tests.support.memory_api import MemoryApi, memory_ports

NODES = ["n1", "n2", "n3"]


class SlowApi(MemoryApi):
    """Every request is answered after all tasks have begun; ``refused`` kinds are not."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()

    async def create(self, resource: Any, manifest: Any) -> Any:
        await asyncio.sleep(0)
        if resource.kind in self.refused:
            raise Unreachable("no answer")
        return await super().create(resource, manifest)


@pytest.fixture
def api() -> SlowApi:
    return SlowApi()


@pytest.fixture
def ports(api: SlowApi) -> Ports:
    return memory_ports(api)


def world(api: SlowApi, ports: Ports, count: int, memory: str = "64Gi", **spec: Any) -> list[Key]:
    """A deployment with so many instances of one machine of 1 GiB, on three nodes without layers."""

    def put(body: dict[str, Any], api_version: str = "v1") -> None:
        stored = api.put({"apiVersion": api_version, **body})
        ports.mirror.put(stored["kind"], stored)

    put(repository_body())
    put(image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
    machine = {"name": "m", "rootDisk": {"imageRef": {"name": "top"}}, "hardware": {"memory": {"guest": "1Gi"}}}
    put(system_body("a", [machine]))
    put(deployment_body(ordinals={"start": 1}, replicas=count, **spec), names.API_VERSION)
    for name in NODES:
        put(node_body(name, memory=memory))
        put(csi_node_body(name))
        put(cache_body(name))
        ports.mirror.heartbeats.assume(name)
    for number in range(1, count + 1):
        put(instance_body(str(number), uid=f"{number:08}-uid"), names.API_VERSION)
    return [Key("instance", NS, f"{NAME}-{number}") for number in range(1, count + 1)]


def instances_on(ports: Ports) -> Counter[str]:
    return Counter(volume.node for volume in ports.mirror.volumes)


@pytest.mark.parametrize("strategy", ["CacheAware", "Spread"])
async def test_thirty_instances_that_are_created_at_once_are_spread(api: SlowApi, ports: Ports, strategy: str) -> None:
    keys = world(api, ports, 30, placement={"strategy": strategy})
    await asyncio.gather(*(reconcile_instance(ports, key) for key in keys))
    assert instances_on(ports) == {"n1": 10, "n2": 10, "n3": 10}


async def test_memory_is_not_oversubscribed_by_instances_that_are_created_at_once(api: SlowApi, ports: Ports) -> None:
    keys = world(api, ports, 12, memory="6Gi", placement={"strategy": "Pack"})
    await asyncio.gather(*(reconcile_instance(ports, key) for key in keys))
    assert set(instances_on(ports).values()) == {4}
    assert all(state.memory_bytes >= 0 for state in gather_nodes(ports.mirror).values())


async def test_what_a_failed_plan_has_reserved_is_free_again(api: SlowApi, ports: Ports) -> None:
    (key,) = world(api, ports, 1)
    before = {name: state.memory_bytes for name, state in gather_nodes(ports.mirror).items()}
    api.refused.add(VOLUME.kind)
    with pytest.raises(Unreachable):
        await reconcile_instance(ports, key)
    assert {name: state.memory_bytes for name, state in gather_nodes(ports.mirror).items()} == before


async def test_the_error_of_one_instance_does_not_concern_the_others(api: SlowApi, ports: Ports) -> None:
    one, two = world(api, ports, 2)
    wrong = {**instance_body("1", uid="00000001-uid", machines=[{"name": "mail"}]), "apiVersion": names.API_VERSION}
    ports.mirror.put(INSTANCE.kind, api.put(wrong))
    await asyncio.gather(reconcile_instance(ports, one), reconcile_instance(ports, two))
    assert {volume.instance for volume in ports.mirror.volumes} == {"2"}
    record = ports.mirror.instances.get(NS, f"{NAME}-1")
    assert record is not None
    assert record.status is not None
    assert {c.type: (c.status, c.reason) for c in record.status.conditions}["Stalled"] == ("True", "MachineUnknown")


@pytest.mark.parametrize(
    ("name", "spec", "owner"),
    [("2", {}, None), ("red", {}, None), ("01", {}, None), ("1", {"replicas": 0}, None), ("1", {}, "a-former-one")],
    ids=["beyond", "name", "number-with-a-zero", "no-replicas", "owner"],
)
async def test_an_instance_that_is_not_selected_starts_nothing(
    api: SlowApi, ports: Ports, name: str, spec: dict[str, Any], owner: str | None
) -> None:
    world(api, ports, 0)
    deployment = {**deployment_body(ordinals={"start": 1}, replicas=1), "apiVersion": names.API_VERSION}
    deployment["spec"] |= spec
    ports.mirror.put("SystemDeployment", api.put(deployment))
    body = {**instance_body(name), "apiVersion": names.API_VERSION}
    if owner is not None:
        body["metadata"]["ownerReferences"][0]["uid"] = owner
    ports.mirror.put(INSTANCE.kind, api.put(body))
    api.log.clear()
    await reconcile_instance(ports, Key("instance", NS, body["metadata"]["name"]))
    assert {kind for kind, *_ in api.log} <= {"status", "create"}
    assert not ports.mirror.volumes.objects
    record = ports.mirror.instances.get(NS, body["metadata"]["name"])
    assert record is not None
    assert record.status is not None
    assert {c.type: (c.status, c.reason) for c in record.status.conditions}["Stalled"] == ("True", "NotSelected")


async def test_an_instance_of_a_deployment_that_has_no_finalizer_yet_waits(api: SlowApi, ports: Ports) -> None:
    (key,) = world(api, ports, 1)
    body = {**deployment_body(2, ordinals={"start": 1}), "apiVersion": names.API_VERSION}
    body["metadata"]["finalizers"] = []
    ports.mirror.put("SystemDeployment", api.put(body))
    await reconcile_instance(ports, key)
    assert not ports.mirror.volumes.objects


async def test_an_instance_is_deleted_without_a_readable_spec_or_a_deployment(api: SlowApi, ports: Ports) -> None:
    (key,) = world(api, ports, 1)
    await reconcile_instance(ports, key)
    assert len(ports.mirror.volumes) == 1
    ports.mirror.gone("SystemDeployment", NS, NAME, "")
    body = {**instance_body("1", uid="00000001-uid"), "apiVersion": names.API_VERSION}
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    body["spec"]["machines"] = "damaged"
    ports.mirror.put(INSTANCE.kind, api.put(body))
    for _ in range(4):
        await reconcile_instance(ports, key)
    assert all(volume.meta.deleting for volume in ports.mirror.volumes)
    assert not ports.mirror.claims.objects
