"""Writes of single objects: another owner's object and a recreated one are never touched."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.adapters.kubernetes.resources import DEPLOYMENT, VOLUME
from kigi.domain import names
from kigi.errors import Conflict, NameTaken
from kigi.reconcilers.object_writes import apply_object, delete_object, set_finalizer
from kigi.runtime.ports import Ports
from tests.support.bodies import NAME, NS, OWNER, deployment_body
from tests.support.memory_api import MemoryApi, memory_ports

VM: dict[str, Any] = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachine",
    "metadata": {"name": "vm", "namespace": NS, "labels": {names.LABEL_DEPLOYMENT: OWNER.deployment}},
    "spec": {"runStrategy": "Always"},
}
CLAIM: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "claim", "namespace": NS, "labels": {names.LABEL_DEPLOYMENT: OWNER.deployment}},
    "spec": {},
}
FOREIGN = {"labels": {names.LABEL_DEPLOYMENT: "another"}}


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def ports(api: MemoryApi) -> Ports:
    return memory_ports(api)


def known(api: MemoryApi, ports: Ports, body: dict[str, Any]) -> dict[str, Any]:
    """Stored, and in the mirror."""
    stored = api.put(body)
    ports.mirror.put(body["kind"], stored)
    return stored


def foreign(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "metadata": {**body["metadata"], **FOREIGN}}


# apply_object


@pytest.mark.parametrize("body", [VM, CLAIM], ids=["applied", "created"])
async def test_an_object_names_its_manager_and_its_template_does_not(
    api: MemoryApi, ports: Ports, body: dict[str, Any]
) -> None:
    body = {**body, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}
    await apply_object(ports, body)
    (stored,) = [item for item in api.objects.values() if item["kind"] == body["kind"]]
    assert stored["metadata"]["labels"] == {**body["metadata"]["labels"], "app.kubernetes.io/managed-by": "kigi"}
    assert stored["spec"] == body["spec"], "a changed template would restart the VM"
    assert "app.kubernetes.io/managed-by" not in body["metadata"]["labels"], "a plan's manifest is not changed"


async def test_a_new_object_is_in_the_mirror_after_the_answer(api: MemoryApi, ports: Ports) -> None:
    await apply_object(ports, VM)
    assert ports.mirror.machines.get(NS, "vm") is not None
    assert api.log == [("apply", "VirtualMachine", "vm")]


async def test_a_known_object_is_applied_with_force(api: MemoryApi, ports: Ports) -> None:
    known(api, ports, VM)
    await apply_object(ports, {**VM, "spec": {"runStrategy": "Halted"}})
    record = ports.mirror.machines.get(NS, "vm")
    assert record is not None
    assert not record.running


async def test_an_unknown_object_of_the_deployment_is_adopted(api: MemoryApi, ports: Ports) -> None:
    api.put(VM)
    with pytest.raises(Conflict):
        await apply_object(ports, VM)
    assert ports.mirror.machines.get(NS, "vm") is not None, "the next decision knows it"


async def test_another_owners_object_is_never_applied_over(api: MemoryApi, ports: Ports) -> None:
    before = api.put(foreign(VM))
    with pytest.raises(NameTaken, match="VirtualMachine ns/vm exists"):
        await apply_object(ports, VM)
    assert api.objects["VirtualMachine", NS, "vm"] == before
    assert ports.mirror.machines.get(NS, "vm") is None


async def test_a_conflict_on_a_known_object_is_raised_without_a_read(api: MemoryApi, ports: Ports) -> None:
    known(api, ports, VM)
    api.fail = [("apply", "vm", Conflict("moved on"))]
    with pytest.raises(Conflict):
        await apply_object(ports, VM)


async def test_a_claim_is_created_once_and_never_changed(api: MemoryApi, ports: Ports) -> None:
    await apply_object(ports, CLAIM)
    await apply_object(ports, {**CLAIM, "spec": {"volumeName": "other"}})
    assert api.log == [("create", "PersistentVolumeClaim", "claim")]


async def test_a_claim_that_exists_is_adopted_if_it_is_ours(api: MemoryApi, ports: Ports) -> None:
    api.put(CLAIM)
    await apply_object(ports, CLAIM)
    assert ports.mirror.claims.get(NS, "claim") is not None


async def test_a_claim_of_another_owner_is_name_taken(api: MemoryApi, ports: Ports) -> None:
    api.put(foreign(CLAIM))
    with pytest.raises(NameTaken):
        await apply_object(ports, CLAIM)


# delete_object


async def test_a_deleted_object_leaves_the_mirror(api: MemoryApi, ports: Ports) -> None:
    known(api, ports, VM)
    await delete_object(ports, "VirtualMachine", NS, "vm")
    assert api.objects == {}
    assert ports.mirror.machines.get(NS, "vm") is None


async def test_an_object_with_finalizers_is_deleting_in_the_mirror(api: MemoryApi, ports: Ports) -> None:
    known(api, ports, {**VM, "metadata": {**VM["metadata"], "finalizers": ["f"]}})
    await delete_object(ports, "VirtualMachine", NS, "vm")
    record = ports.mirror.machines.get(NS, "vm")
    assert record is not None
    assert record.meta.deleting


async def test_a_recreated_object_is_not_deleted(api: MemoryApi, ports: Ports) -> None:
    known(api, ports, VM)
    recreated = api.put({**VM, "metadata": {**VM["metadata"], "uid": "another"}})
    await delete_object(ports, "VirtualMachine", NS, "vm")
    assert api.objects["VirtualMachine", NS, "vm"] == recreated


async def test_an_object_that_the_mirror_does_not_know_needs_no_request(api: MemoryApi, ports: Ports) -> None:
    await delete_object(ports, "VirtualMachine", NS, "vm")
    assert api.log == []


# set_finalizer


def without_finalizers() -> dict[str, Any]:
    body = deployment_body()
    return {**body, "metadata": {**body["metadata"], "finalizers": []}}


def finalizers(ports: Ports) -> tuple[str, ...]:
    record = ports.mirror.deployments.get(NS, NAME)
    assert record is not None
    return record.meta.finalizers


async def set_ours(ports: Ports, wanted: bool) -> None:
    await set_finalizer(ports, DEPLOYMENT, NS, NAME, names.DEPLOYMENT_FINALIZER, wanted=wanted)


async def test_a_finalizer_is_added_and_removed_once(api: MemoryApi, ports: Ports) -> None:
    known(api, ports, {**without_finalizers(), "apiVersion": names.API_VERSION})
    for wanted in (True, True, False, False):
        await set_ours(ports, wanted)
        assert (names.DEPLOYMENT_FINALIZER in finalizers(ports)) is wanted
    assert len(api.log) == 2


async def test_the_finalizer_of_an_earlier_version_is_removed_too(api: MemoryApi, ports: Ports) -> None:
    body = without_finalizers()
    known(api, ports, {**body, "metadata": {**body["metadata"], "finalizers": ["kigi.dev/finalizer", "other"]}})
    assert names.has_deployment_finalizer(finalizers(ports))
    await set_ours(ports, True)
    assert finalizers(ports) == ("kigi.dev/finalizer", "other"), "the API server refuses a new one on a deletion"
    await set_ours(ports, False)
    assert finalizers(ports) == ("other",)


async def test_other_finalizers_stay(api: MemoryApi, ports: Ports) -> None:
    body = deployment_body()
    known(api, ports, {**body, "metadata": {**body["metadata"], "finalizers": ["other"]}})
    await set_ours(ports, True)
    assert finalizers(ports) == ("other", names.DEPLOYMENT_FINALIZER)
    await set_ours(ports, False)
    assert finalizers(ports) == ("other",)


async def test_the_last_finalizer_of_a_deleting_object_ends_it(api: MemoryApi, ports: Ports) -> None:
    body = deployment_body()
    meta = {**body["metadata"], "finalizers": [names.DEPLOYMENT_FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    known(api, ports, {**body, "metadata": meta})
    await set_ours(ports, False)
    assert ports.mirror.deployments.get(NS, NAME) is None


async def test_a_version_that_is_not_the_newest_is_a_conflict_and_the_mirror_has_the_newest_then(
    api: MemoryApi, ports: Ports
) -> None:
    stored = known(api, ports, without_finalizers())
    api.put({**stored, "metadata": {**stored["metadata"], "finalizers": ["other"]}})
    with pytest.raises(Conflict):
        await set_ours(ports, True)
    assert finalizers(ports) == ("other",)
    await set_ours(ports, True)
    assert finalizers(ports) == ("other", names.DEPLOYMENT_FINALIZER)


async def test_a_missing_object_is_removed_from_the_mirror(api: MemoryApi, ports: Ports) -> None:
    known(api, ports, without_finalizers())
    api.objects.clear()
    await set_ours(ports, True)
    assert ports.mirror.deployments.get(NS, NAME) is None
    await set_finalizer(ports, VOLUME, None, "unknown", names.OVERLAY_FINALIZER, wanted=False)
