"""What the daemon sends to the API server, and how its watch of the NodeCache ends, expires or falls silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kigi.api.base import Metadata
from kigi.api.node_cache import NodeCacheStatus
from kigi.domain.names import LABEL_HEARTBEAT
from kigi.errors import NotFound, SpecInvalid, Unreachable
from kigi_cache.node.kube import SILENCE_S, WATCH_S, KubeApi
from tests.support.pod_api import Authority, PodApi

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kigi-system/leases"
BOOKMARKS_S = 60.0
"""The API server sends a bookmark once in this time."""
CACHES = "/apis/node.kigi.dev/v1alpha1/nodecaches"
CACHE = {
    "apiVersion": "node.kigi.dev/v1alpha1",
    "kind": "NodeCache",
    "metadata": {"name": "n", "uid": "u", "generation": 1, "resourceVersion": "7"},
    "spec": {"nodeName": "n", "operatorProtocol": 2, "protocol": 2},
}


class Server:
    """Answers every request with ``status`` and ``body``; a watch with the events, after which it ends or is silent."""

    def __init__(self) -> None:
        self.status = 200
        self.body: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.silent = False
        self.missing: set[str] = set()
        """Methods that find no object."""
        self.requests: list[tuple[str, str, Any]] = []
        self.queries: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.text() or "null")
        self.requests.append((request.method, request.path, body))
        self.queries.append(dict(request.query))
        if "watch" not in request.query:
            status = 404 if request.method in self.missing else self.status
            return web.json_response(self.body, status=status)
        response = web.StreamResponse()
        await response.prepare(request)
        for event in self.events:
            await response.write(json.dumps(event).encode() + b"\n")
        if self.silent:
            await asyncio.Event().wait()
        return response


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def api(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeApi]:
    authority = Authority("ca")
    pod = PodApi(tmp_path / "pod", server.answer)
    pod.trust(authority)
    await pod.serve(authority)
    pod.enter(monkeypatch)
    made = KubeApi("n", silence_s=0.2)
    await made.open()
    yield made
    await made.close()
    await pod.close()


async def test_the_nodes_own_cache_is_listed_alone(server: Server, api: KubeApi) -> None:
    server.body = {"metadata": {"resourceVersion": "9"}, "items": [CACHE]}
    seen = await api.get()
    assert seen.cache is not None
    assert (seen.cache.metadata.uid, seen.resource_version) == ("u", "9")
    assert (server.requests[0][:2], server.queries[0]["fieldSelector"]) == (("GET", CACHES), "metadata.name=n")
    server.body = {"metadata": {"resourceVersion": "9"}, "items": []}
    assert (await api.get()).cache is None


async def test_an_object_that_is_none_is_named(server: Server, api: KubeApi) -> None:
    server.body = {"metadata": {"resourceVersion": "9"}, "items": [{**CACHE, "spec": {"layers": "many"}}]}
    with pytest.raises(SpecInvalid, match="NodeCache cannot be read"):
        await api.get()


async def test_a_watch_ends_in_good_order_after_its_time(server: Server, api: KubeApi) -> None:
    deleted = {"type": "DELETED", "object": CACHE}
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}}
    server.events = [{"type": "MODIFIED", "object": CACHE}, bookmark, deleted]
    seen = [cache async for cache in api.watch("7")]
    assert [cache.metadata.uid if cache is not None else None for cache in seen] == ["u", None]
    query = server.queries[0]
    assert (float(query["timeoutSeconds"]), query["resourceVersion"]) == (WATCH_S, "7")
    assert query["fieldSelector"] == "metadata.name=n"


async def test_a_silent_watch_is_given_up(server: Server, api: KubeApi) -> None:
    server.events, server.silent = [{"type": "MODIFIED", "object": CACHE}], True
    watch = api.watch("7")
    assert await anext(watch) is not None
    with pytest.raises(Unreachable, match="nodecaches"):
        await anext(watch)


async def test_a_version_that_expired_ends_the_watch(server: Server, api: KubeApi) -> None:
    server.events = [{"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}]
    with pytest.raises(Unreachable, match="too old"):
        await anext(api.watch("7"))


def test_a_bookmark_that_is_late_does_not_end_a_watch() -> None:
    assert SILENCE_S > 1.5 * BOOKMARKS_S


async def test_a_watch_asks_for_bookmarks(server: Server, api: KubeApi) -> None:
    server.events = [{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}]
    assert [cache async for cache in api.watch("7")] == []
    assert server.queries[0]["allowWatchBookmarks"] == "true"


async def test_a_lease_is_renewed_with_its_owner(server: Server, api: KubeApi) -> None:
    await api.renew_lease(Metadata(name="n", uid="u"))
    ((method, path, body),) = server.requests
    assert (method, path) == ("PATCH", f"{LEASES}/kigi-node-n")
    assert body["spec"]["holderIdentity"] == "n"
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "node.kigi.dev/v1alpha1", "kind": "NodeCache", "name": "n", "uid": "u"}
    ]
    assert body["metadata"]["labels"] == {LABEL_HEARTBEAT: "", "app.kubernetes.io/managed-by": "kigi"}
    renewed = datetime.fromisoformat(body["spec"]["renewTime"])
    assert abs(datetime.now(UTC) - renewed) < timedelta(minutes=1)


async def test_a_lease_that_does_not_exist_is_created(server: Server, api: KubeApi) -> None:
    server.missing = {"PATCH"}
    await api.renew_lease(Metadata(name="n", uid="u"))
    assert [(method, path) for method, path, _ in server.requests] == [
        ("PATCH", f"{LEASES}/kigi-node-n"),
        ("POST", LEASES),
    ]


async def test_a_spec_of_another_protocol_is_read_without_its_lists(server: Server, api: KubeApi) -> None:
    """They may have any form; the daemon reports the difference, and acts on nothing."""
    spec = {"nodeName": "n", "operatorProtocol": 9, "protocol": 9, "layers": [{"what": "ever"}]}
    server.events = [{"type": "MODIFIED", "object": {**CACHE, "spec": spec}}]
    (cache,) = [cache async for cache in api.watch("7")]
    assert cache is not None
    assert (cache.spec.protocol, cache.spec.layers) == (9, [])


async def test_a_status_is_replaced_as_a_whole(server: Server, api: KubeApi) -> None:
    await api.write_status(NodeCacheStatus(observed_generation=3, used_bytes=7))
    method, path, body = server.requests[0]
    assert (method, path) == ("PATCH", f"{CACHES}/n/status")
    assert (body["status"]["observedGeneration"], body["status"]["usedBytes"]) == (3, 7)
    assert body["status"]["peerAddress"] is None, "a field without a value is cleared"
    assert body["status"].keys() >= {"layers", "volumes", "captures", "conditions"}


async def test_a_status_without_an_object_is_an_error(server: Server, api: KubeApi) -> None:
    server.status = 404
    with pytest.raises(NotFound, match="NodeCache n"):
        await api.write_status(NodeCacheStatus())


async def test_a_warning_names_the_object_and_is_cut(server: Server, api: KubeApi) -> None:
    await api.warn("u", "OverlayRejected", "x" * 2000)
    method, path, event = server.requests[0]
    assert (method, path) == ("POST", "/apis/events.k8s.io/v1/namespaces/default/events")
    assert event["regarding"] == {
        "apiVersion": "node.kigi.dev/v1alpha1",
        "kind": "NodeCache",
        "name": "n",
        "uid": "u",
    }
    assert event["related"] == {"apiVersion": "v1", "kind": "Node", "name": "n"}
    assert (event["type"], event["reason"], len(event["note"].encode())) == ("Warning", "OverlayRejected", 1024)


VALID = {"authenticated": True, "audiences": ["kigi-peer"], "user": {"username": "daemon"}}


@pytest.mark.parametrize(
    ("status", "user"),
    [
        (VALID, "daemon"),
        ({**VALID, "authenticated": False}, ""),
        ({**VALID, "audiences": ["https://kubernetes.default.svc"]}, ""),
        ({**VALID, "audiences": None}, ""),
        ({**VALID, "user": None}, ""),
        (None, ""),
    ],
    ids=["valid", "refused", "for the API server", "for any audience", "without a user", "not reviewed"],
)
async def test_a_token_counts_only_for_its_audience(
    server: Server, api: KubeApi, status: dict[str, Any] | None, user: str
) -> None:
    server.body = {"status": status}
    assert await api.review_token("t", "kigi-peer") == user
    assert server.requests[0][2]["spec"] == {"token": "t", "audiences": ["kigi-peer"]}


async def test_peers_are_the_ready_addresses_of_all_slices(server: Server, api: KubeApi) -> None:
    def endpoint(address: str, node: str | None, *, ready: bool | None = None) -> dict[str, Any]:
        return {"addresses": [address], "nodeName": node, "conditions": {"ready": ready}}

    first = {"endpoints": [endpoint("10.0.0.2", "b", ready=True), endpoint("10.0.0.1", "a")]}
    second = {"endpoints": [endpoint("10.0.0.3", "c", ready=False), endpoint("10.0.0.4", None)]}
    server.body = {"metadata": {}, "items": [first, second, {"endpoints": None}]}
    assert await api.peer_addresses("kigi-system", "kigi-peers") == {"10.0.0.1": "a", "10.0.0.2": "b"}
    assert server.queries[0]["labelSelector"] == "kubernetes.io/service-name=kigi-peers"


async def test_certificates_are_published_with_the_heartbeat(server: Server, api: KubeApi) -> None:
    await api.renew_lease(Metadata(name="n", uid="u"), ("a" * 64, "b" * 64))
    lease = server.requests[0][2]
    server.body = lease
    assert await api.peer_certificates("n") == {"a" * 64, "b" * 64}
    assert server.requests[1][:2] == ("GET", f"{LEASES}/kigi-node-n")
    assert server.queries[1]["resourceVersion"] == "0", "etcd is not asked"
    assert await api.peer_certificates("another") == set(), "the Lease has another holder"
    await api.renew_lease(Metadata(name="n", uid="u"))
    server.body = server.requests[-1][2]
    assert await api.peer_certificates("n") == set(), "a daemon that serves no peers takes back what it published"


async def test_a_node_without_a_lease_has_no_certificates(server: Server, api: KubeApi) -> None:
    server.missing = {"GET"}
    assert await api.peer_certificates("n") == set()
