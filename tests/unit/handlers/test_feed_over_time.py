"""kopf's watches over time: tokens, logins, silent connections, and an API server that is unreachable for long."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import NODE
from kigi.handlers.feed import WatchTimes
from kigi.mirror.store import Mirror
from kigi.process import watch_cluster
from kigi.runtime.liveness import LOOP_S, Liveness
from kigi.runtime.ports import Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.cluster import eventually_async
from tests.support.pod_api import Authority, PodApi

FAST = WatchTimes(login_pause_s=0.01, watch_backoffs_s=(0.01,) * 100)
SHORT_LOGINS = replace(FAST, login_s=0.05)
GROUPS = {"/api/v1": ["nodes", "namespaces"], "/apis/apiextensions.k8s.io/v1": ["customresourcedefinitions"]}


class Cluster:
    """An API server that has nodes, and watches of them."""

    def __init__(self) -> None:
        self.version = 1
        self.nodes: dict[str, dict[str, Any]] = {}
        self.watches: list[asyncio.Queue[dict[str, Any]]] = []
        self.opened = 0
        self.broken = 0
        """Requests that are still to be answered with 503."""
        self.now = 0.0
        """Time of the operator's liveness."""

    def add(self, name: str) -> None:
        self.version += 1
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "uid": name, "resourceVersion": str(self.version)},
        }
        self.nodes[name] = body
        for watch in self.watches:
            watch.put_nowait({"type": "ADDED", "object": body})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.broken:
            self.broken -= 1
            return web.json_response({"kind": "Status", "message": "no server", "code": 503}, status=503)
        path = request.path
        if path == "/api":
            return web.json_response({"versions": ["v1"]})
        if path == "/apis":
            version = {"groupVersion": "apiextensions.k8s.io/v1", "version": "v1"}
            group = {"name": "apiextensions.k8s.io", "versions": [version], "preferredVersion": version}
            return web.json_response({"groups": [group]})
        if path in GROUPS:
            verbs = ["list", "watch", "patch"]
            kinds = [
                {"name": plural, "singularName": plural[:-1], "kind": plural, "namespaced": False, "verbs": verbs}
                for plural in GROUPS[path]
            ]
            return web.json_response({"resources": kinds})
        items = list(self.nodes.values()) if path.endswith("/nodes") else []
        if "watch" not in request.query:
            return web.json_response({"items": items, "metadata": {"resourceVersion": str(self.version)}})
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        since = int(request.query.get("resourceVersion", "0"))
        for item in items:
            if int(item["metadata"]["resourceVersion"]) > since:
                queue.put_nowait({"type": "ADDED", "object": item})
        if path.endswith("/nodes"):
            self.watches.append(queue)
            self.opened += 1
        try:
            while True:
                await response.write(json.dumps(await queue.get()).encode() + b"\n")
        finally:
            if queue in self.watches:
                self.watches.remove(queue)


class Watching:
    def __init__(self, cluster: Cluster, pod: PodApi, ports: Ports, task: asyncio.Task[None]) -> None:
        self.cluster, self.pod, self.ports, self.task = cluster, pod, ports, task

    async def sees(self, name: str) -> None:
        await eventually_async(lambda: self.task.done() or self.ports.mirror.nodes.get(None, name) is not None, 10)
        assert not self.task.done(), self.task.exception()
        assert self.ports.mirror.nodes.get(None, name) is not None


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("first")


@pytest.fixture
def times() -> WatchTimes:
    return FAST


@pytest.fixture
async def watching(
    tmp_path: Path, authority: Authority, times: WatchTimes, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watching]:
    cluster = Cluster()
    pod = PodApi(tmp_path / "pod", cluster.answer)
    pod.trust(authority)
    await pod.serve(authority)
    pod.enter(monkeypatch)
    liveness = Liveness(lambda: cluster.now)
    ports = Ports(cast("KubeClient", None), Mirror(), WorkQueue(), Settings(identity="test"), liveness=liveness)
    ended = asyncio.Event()
    task = asyncio.create_task(watch_cluster(ports, ended, None, times=times, resources=(NODE,)))
    cluster.add("first")
    found = Watching(cluster, pod, ports, task)
    await found.sees("first")
    await eventually_async(lambda: cluster.watches)
    yield found
    ended.set()
    await asyncio.wait({task}, timeout=5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await pod.close()


def cut(cluster: Cluster, pod: PodApi) -> None:
    """Ends every connection, as a load balancer does."""
    assert pod.runner is not None and pod.runner.server is not None
    for connection in list(pod.runner.server.connections):
        if connection.transport is not None:
            connection.transport.abort()


async def test_a_replaced_token_is_read_with_the_next_login(watching: Watching) -> None:
    watching.pod.token = "second"
    watching.pod.write_token("second")
    cut(watching.cluster, watching.pod)
    watching.cluster.add("second")
    await watching.sees("second")
    assert watching.pod.refusals


async def test_a_valid_token_that_is_refused_for_a_while_does_not_end_the_operator(watching: Watching) -> None:
    """As while an API server starts and cannot check tokens yet."""
    watching.pod.token = "other"
    cut(watching.cluster, watching.pod)
    await eventually_async(lambda: watching.pod.refusals > 5)
    watching.pod.token = "first"
    watching.cluster.add("second")
    await watching.sees("second")


async def test_an_api_server_that_answers_503_for_long_does_not_end_the_operator(watching: Watching) -> None:
    watching.cluster.broken = 300
    cut(watching.cluster, watching.pod)
    watching.cluster.add("second")
    await watching.sees("second")
    assert watching.cluster.broken == 0


async def test_events_and_attempts_of_kopfs_watches_are_progress(watching: Watching) -> None:
    cluster, liveness = watching.cluster, watching.ports.liveness
    assert liveness.stuck() == []
    cluster.now += LOOP_S + 1
    assert [text.split(":")[0] for text in liveness.stuck() if "nodes" in text] == ["watcher for nodes.v1@None"]
    cluster.add("second")
    await watching.sees("second")
    assert not [text for text in liveness.stuck() if "nodes" in text], "an event is progress"
    cluster.now += LOOP_S + 1
    cluster.broken = 1_000_000
    cut(cluster, watching.pod)
    await eventually_async(lambda: liveness.stuck() == [], what="an attempt that fails is progress")
    cluster.now += LOOP_S + 1
    await eventually_async(lambda: liveness.stuck() == [], what="as is each further one")


async def test_a_watch_of_kopf_that_fails_ends_the_operator(watching: Watching) -> None:
    """Its pod starts it again: no operator runs without one of its watches."""
    for watch in watching.cluster.watches:
        watch.put_nowait({"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}})
    await eventually_async(watching.task.done, what="the process ends")
    with pytest.raises(Exception, match="etcd"):
        watching.task.result()


@pytest.mark.parametrize("times", [SHORT_LOGINS])
async def test_watches_continue_after_the_login_expired(watching: Watching) -> None:
    watching.pod.token = "second"
    watching.pod.write_token("second")
    cut(watching.cluster, watching.pod)  # the next login is the first that expires soon
    for number in range(5):
        opened = watching.cluster.opened
        cut(watching.cluster, watching.pod)
        await eventually_async(lambda opened=opened: watching.cluster.opened > opened)
        watching.cluster.add(f"n{number}")
        await watching.sees(f"n{number}")


@pytest.mark.parametrize("times", [SHORT_LOGINS])
async def test_a_rotated_ca_is_read_with_the_next_login(watching: Watching) -> None:
    watching.pod.token = "second"
    watching.pod.write_token("second")
    opened = watching.cluster.opened
    cut(watching.cluster, watching.pod)
    await eventually_async(lambda: watching.cluster.opened > opened)
    second = Authority("second")
    watching.pod.trust(second)
    await watching.pod.serve(second)
    watching.cluster.add("second")
    await watching.sees("second")


async def test_a_silent_watch_is_opened_again(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that a firewall dropped: neither an event nor its end arrives."""
    cluster = Cluster()
    pod = PodApi(tmp_path / "pod", cluster.answer)
    pod.trust(authority)
    await pod.serve(authority)
    pod.enter(monkeypatch)
    ports = Ports(cast("KubeClient", None), Mirror(), WorkQueue(), Settings(identity="test"))
    ended = asyncio.Event()
    task = asyncio.create_task(
        watch_cluster(ports, ended, None, times=WatchTimes(watch_silence_s=0.2), resources=(NODE,))
    )
    try:
        began = time.monotonic()
        await eventually_async(lambda: cluster.opened >= 3)
        assert time.monotonic() - began < 8
    finally:
        ended.set()
        await asyncio.wait({task}, timeout=5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await pod.close()
