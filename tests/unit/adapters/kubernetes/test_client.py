"""The asynchronous client: what it sends, and what it makes of each answer, over a real HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from kigi.adapters.kubernetes import client
from kigi.adapters.kubernetes.api_requests import APPLY, JSON_PATCH, MERGE_PATCH
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CLAIM, ENDPOINT_SLICE, MACHINE, NODE, SYSTEM, VOLUME
from kigi.errors import Conflict, LostLeadership, NotFound, Unreachable
from tests.support.answering import AnsweringServer

BODY = {"apiVersion": SYSTEM.api_version, "kind": SYSTEM.kind, "metadata": {"name": "x", "namespace": "ns"}}


class SlowServer:
    """Answers no request until ``release`` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.methods: list[str] = []
        self._asked = asyncio.Event()
        self._server: TestServer | None = None

    async def __aenter__(self) -> SlowServer:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._server = TestServer(app)
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.release.set()
        await self._server.close()

    def configuration(self) -> Configuration:
        assert self._server is not None
        found = Configuration()
        found.host = str(self._server.make_url("")).rstrip("/")
        return found

    async def asked_for(self, method: str) -> None:
        await asyncio.wait_for(self._asked.wait(), 10)
        assert method in self.methods

    async def _answer(self, request: web.Request) -> web.Response:
        self.methods.append(request.method)
        self._asked.set()
        await self.release.wait()
        return web.json_response({"metadata": {"name": "x", "uid": "u", "resourceVersion": "1"}})


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


async def test_a_page_that_is_too_long_is_read_in_smaller_ones(
    server: AnsweringServer, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_PAGE_BYTES", 1000)
    item = {"metadata": {"name": "1"}}
    long = {"metadata": {}, "items": [{"metadata": {"name": "x" * 2000}}]}
    more = {"metadata": {"continue": "t"}, "items": [item]}
    server.answers = [(200, long), (200, long), (200, more), (200, long), (200, long), (200, long)]
    assert len([each async for each in kube.list_all(CLAIM, "ns")]) == 2
    limits = [asked[1].partition("limit=")[2].partition("&")[0] for asked in server.asked]
    assert limits == ["1000", "125", "15", "30", "3", "1"], "one object is read whatever its size"


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
    path = "/apis/kigi.dev/v1alpha2/namespaces/ns/systemnodes"
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


@pytest.fixture
async def slow() -> AsyncIterator[SlowServer]:
    async with SlowServer() as made:
        yield made


async def test_a_write_that_waited_for_a_slot_is_not_sent_after_the_end_of_the_lease(slow: SlowServer) -> None:
    is_leader = True

    def guard() -> float:
        if not is_leader:
            raise LostLeadership("the lease has ended")
        return 20.0

    async with KubeClient(slow.configuration(), concurrency=1, timeout_s=20) as kube:
        kube.guard = guard
        reading = asyncio.create_task(kube.get(VOLUME, None, "slow"))
        await slow.asked_for("GET")
        writing = asyncio.create_task(kube.delete(VOLUME, None, "pv"))
        await asyncio.sleep(0)
        is_leader = False
        slow.release.set()
        await reading
        with pytest.raises(LostLeadership):
            await writing
    assert slow.methods == ["GET"]


async def test_no_write_outlives_the_lease(slow: SlowServer) -> None:
    async with KubeClient(slow.configuration(), timeout_s=20) as kube:
        kube.guard = lambda: 0.05
        with pytest.raises(Unreachable):
            await asyncio.wait_for(kube.delete(VOLUME, None, "pv"), 5)
        kube.guard = lambda: None
        slow.release.set()
        await kube.delete(VOLUME, None, "pv")


async def test_the_api_server_gets_the_end_of_the_lease_as_its_own_limit(
    server: AnsweringServer, kube: KubeClient
) -> None:
    """A process that is suspended after it has sent a request cannot close the connection."""
    server.answers = [(200, BODY)] * 4
    kube.guard = lambda: 7.0019
    await kube.delete(VOLUME, None, "pv")
    await kube.merge_patch(VOLUME, None, "pv", {})
    kube.guard = lambda: 2.0
    await kube.apply(BODY)
    kube.guard = None
    await kube.apply(BODY)
    queries = [dict(parse_qsl(asked[1].partition("?")[2])) for asked in server.asked]
    assert [query.get("timeout") for query in queries] == ["7001ms", "7001ms", "2000ms", None]
    assert queries[1]["fieldManager"] == "me", "the request's own query stays"


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
