"""The asynchronous client: what it sends, and what it makes of each answer, over a real HTTP server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from kubernetes.aio.client import Configuration

from kigi.adapters.kubernetes.api_requests import APPLY, JSON_PATCH, MERGE_PATCH
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CLAIM, ENDPOINT_SLICE, MACHINE, NODE, SYSTEM, VOLUME
from kigi.errors import Conflict, LostLeadership, NotFound, Unreachable
from tests.support.answering import AnsweringServer

BODY = {"apiVersion": SYSTEM.api_version, "kind": SYSTEM.kind, "metadata": {"name": "x", "namespace": "ns"}}


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with AnsweringServer() as made:
        yield made


@pytest.fixture
async def kube(server: AnsweringServer) -> AsyncIterator[KubeClient]:
    configuration = Configuration()
    configuration.host = server.url
    async with KubeClient(configuration, manager="me", timeout_s=5) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (CLAIM.path("ns", "c"), "/api/v1/namespaces/ns/persistentvolumeclaims/c"),
        (CLAIM.path(), "/api/v1/persistentvolumeclaims"),
        (VOLUME.path(None, "v"), "/api/v1/persistentvolumes/v"),
        (NODE.path("ignored", "n", "status"), "/api/v1/nodes/n/status"),
        (MACHINE.path("ns", "m"), "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/m"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


async def test_a_listing_follows_its_pages_and_completes_its_items(server: AnsweringServer, kube: KubeClient) -> None:
    first = {"metadata": {"continue": "a/b"}, "items": [{"metadata": {"name": "1"}}]}
    server.answers = [(200, first), (200, {"metadata": {}, "items": [{"metadata": {"name": "2"}}]})]
    found = [item async for item in kube.list_all(CLAIM, "ns")]
    assert [(item["metadata"]["name"], item["kind"], item["apiVersion"]) for item in found] == [
        ("1", CLAIM.kind, "v1"),
        ("2", CLAIM.kind, "v1"),
    ]
    path = "/api/v1/namespaces/ns/persistentvolumeclaims?limit=1000&labelSelector=kigi.dev/deployment"
    assert [asked[1] for asked in server.asked] == [path, f"{path}&continue=a/b"]


async def test_a_listing_may_name_its_own_labels(server: AnsweringServer, kube: KubeClient) -> None:
    server.answers = [(200, {"metadata": {}})]
    assert [item async for item in kube.list_all(ENDPOINT_SLICE, "ns", label_selector="a=b")] == []
    assert server.asked[0][1].endswith("?limit=1000&labelSelector=a%3Db")


async def test_what_does_not_exist_is_a_result_of_reads_patches_and_deletes(
    server: AnsweringServer, kube: KubeClient
) -> None:
    """AnsweringServer answers 404 to everything."""
    assert await kube.get(SYSTEM, "ns", "x") is None
    assert [item async for item in kube.list_all(SYSTEM)] == []
    assert await kube.annotate(SYSTEM, "ns", "x", {"a": "b"}) is None
    assert await kube.write_status(SYSTEM, "ns", "x", "uid", {}) is None
    assert await kube.delete(SYSTEM, "ns", "x") is None


Call = Callable[[KubeClient], Awaitable[object]]
NEEDED: dict[str, Call] = {
    "create": lambda kube: kube.create(SYSTEM, BODY),
    "replace": lambda kube: kube.replace(SYSTEM, BODY),
    "apply": lambda kube: kube.apply(BODY),
    "list with a version": lambda kube: kube.list_version(SYSTEM),
    "request to a VM": lambda kube: kube.vmi_request("ns", "x", "pause"),
}


@pytest.mark.parametrize("call", NEEDED.values(), ids=NEEDED)
async def test_what_must_exist_is_an_error_where_it_does_not(kube: KubeClient, call: Call) -> None:
    with pytest.raises(NotFound):
        await call(kube)


@pytest.mark.parametrize(
    ("status", "answer", "left"),
    [
        pytest.param(200, {"kind": "Status", "status": "Success"}, None, id="gone"),
        pytest.param(200, {"kind": "SystemNode", "metadata": {"name": "x"}}, None, id="gone-as-it-last-was"),
        pytest.param(200, {"metadata": {"finalizers": ["f"]}}, {"metadata": {"finalizers": ["f"]}}, id="waits"),
        pytest.param(409, {"message": "uid differs"}, None, id="another-object"),
    ],
)
async def test_a_deletion_gives_the_object_that_waits_for_finalizers(
    server: AnsweringServer, kube: KubeClient, status: int, answer: Any, left: Any
) -> None:
    server.answers = [(status, answer)]
    assert await kube.delete(SYSTEM, "ns", "x", uid="7") == left
    assert server.asked[0][3] == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "propagationPolicy": "Background",
        "preconditions": {"uid": "7"},
    }


async def test_writes_name_their_manager_and_their_form(server: AnsweringServer, kube: KubeClient) -> None:
    server.answers = [(200, BODY)] * 6
    await kube.apply(BODY, force=False)
    await kube.create(SYSTEM, BODY, dry_run=True)
    await kube.replace(SYSTEM, BODY, manager="other")
    await kube.write_status(SYSTEM, "ns", "x", "uid", {"a": 1})
    await kube.merge_patch(SYSTEM, "ns", "x", {"status": {}}, "status")
    await kube.set_finalizers(SYSTEM, "ns", {"metadata": {"name": "x", "uid": "u", "resourceVersion": "3"}}, ["f"])
    path = "/apis/kigi.dev/v1alpha1/namespaces/ns/systemnodes"
    assert [(method, target) for method, target, _, _ in server.asked] == [
        ("PATCH", f"{path}/x?fieldManager=me&force=false"),
        ("POST", f"{path}?fieldManager=me&dryRun=All"),
        ("PUT", f"{path}/x?fieldManager=other"),
        ("PATCH", f"{path}/x/status?fieldManager=me"),
        ("PATCH", f"{path}/x/status?fieldManager=me"),
        ("PATCH", f"{path}/x?fieldManager=me"),
    ]
    forms = [headers["Content-Type"] for _, _, headers, _ in server.asked]
    assert forms == [APPLY, "application/json", "application/json", JSON_PATCH, MERGE_PATCH, JSON_PATCH]
    assert {headers["User-Agent"] for _, _, headers, _ in server.asked} == {"me"}
    assert server.asked[3][3][0] == {"op": "test", "path": "/metadata/uid", "value": "uid"}
    assert [operation["op"] for operation in server.asked[5][3]] == ["test", "test", "add"]


async def test_the_guard_stops_writes_and_no_reads(server: AnsweringServer, kube: KubeClient) -> None:
    def refuse() -> None:
        raise LostLeadership("another one leads")

    kube.guard = refuse
    with pytest.raises(LostLeadership):
        await kube.apply(BODY)
    assert server.asked == []
    assert await kube.get(SYSTEM, "ns", "x") is None


async def test_writes_that_were_answered_are_counted(server: AnsweringServer, kube: KubeClient) -> None:
    counted: list[int] = []
    kube.after_write = counted.append
    server.answers = [(200, BODY), (409, {}), (200, BODY), (200, {})]
    await kube.apply(BODY)
    with pytest.raises(Conflict):
        await kube.apply(BODY)
    await kube.create(SYSTEM, BODY)
    await kube.get(SYSTEM, "ns", "x")
    assert counted == [1, 2]
    assert kube.writes == 2


@pytest.mark.parametrize(
    ("status", "done"),
    [(202, True), (409, True), (404, False), (503, False)],
    ids=["accepted", "is-restarting-already", "no-such-service", "service-is-down"],
)
async def test_a_restart_is_done_or_not_available(
    server: AnsweringServer, kube: KubeClient, status: int, done: bool
) -> None:
    server.answers = [(status, b"")]
    assert await kube.restart_machine("ns", "vm") is done
    assert server.asked[0][3] == {"gracePeriodSeconds": 0}


async def test_a_graceful_restart_leaves_the_time_to_the_vm(server: AnsweringServer, kube: KubeClient) -> None:
    server.answers = [(202, b"")]
    assert await kube.restart_machine("ns", "vm", gracefully=True)
    assert server.asked[0][3] == {}


async def test_a_name_with_other_characters_is_quoted(server: AnsweringServer, kube: KubeClient) -> None:
    assert await kube.get(SYSTEM, "ns", "a b?c/") is None
    assert server.asked[0][1].endswith("/systemnodes/a%20b%3Fc/")


async def test_an_error_page_is_shown_in_part(server: AnsweringServer, kube: KubeClient) -> None:
    server.answers = [(502, b"<html>" + b"x" * 5000)]
    with pytest.raises(Unreachable, match="<html>x") as caught:
        await kube.get(SYSTEM, "ns", "x")
    assert len(str(caught.value)) < 700
