"""After etcd was restored from a backup, versions are used again: the operator notices, and starts with no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from kigi import main, process
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import NODE, Resource
from kigi.handlers import feed
from kigi.runtime.ports import ClusterRestored, Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.bodies import node_body
from tests.support.mirrors import new_mirror
from tests.support.virtual_time import run_virtually

UID = "uid-Node-n1"


class Kube:
    """Lists ``nodes``, and nothing of any other kind. ``meanwhile`` is called before the first object."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        self.nodes = list(nodes)
        self.listed: list[float] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def list_all(self, resource: Resource, *_: object) -> AsyncIterator[dict[str, Any]]:
        if resource is NODE:
            self.listed.append(asyncio.get_running_loop().time())
            self.meanwhile()
            for body in self.nodes:
                yield body


def ports_on(kube: Kube) -> Ports:
    return Ports(cast(KubeClient, kube), new_mirror(), WorkQueue(), Settings(identity="me", hook_image="kigi:dev"))


async def test_a_listing_that_is_older_than_what_was_known_before_it_is_of_a_restored_cluster() -> None:
    ports = ports_on(Kube(node_body(version=7)))
    ports.see("Node", node_body(version=9))
    with pytest.raises(ClusterRestored, match="Node n1 has version 7 again"):
        await ports.relist(NODE)


@pytest.mark.parametrize("version", [None, 8], ids=["it was deleted", "it had left the watch"])
async def test_an_object_that_was_gone_exists_again_in_a_restored_cluster(version: int | None) -> None:
    ports = ports_on(Kube(node_body(version=7)))
    ports.see("Node", node_body(version=7))
    ports.see_gone("Node", None, "n1", UID, version)
    with pytest.raises(ClusterRestored):
        await ports.relist(NODE)


async def test_what_was_learnt_during_a_listing_is_no_sign() -> None:
    """The listing is of its beginning: an answer to a write, and a deletion, may be newer."""
    kube = Kube(node_body(version=7), node_body("n2", version=5))
    ports = ports_on(kube)
    ports.see("Node", node_body(version=7))
    ports.see("Node", node_body("n2", version=5))

    def change() -> None:
        ports.see("Node", node_body(version=9))
        ports.see_gone("Node", None, "n2", "uid-Node-n2", 10)

    kube.meanwhile = change
    assert await ports.relist(NODE) == 0
    record = ports.mirror.nodes.get(None, "n1")
    assert record is not None
    assert record.meta.version == 9
    assert ports.mirror.nodes.get(None, "n2") is None


async def test_an_object_with_its_label_again_is_no_sign() -> None:
    ports = ports_on(Kube(node_body(version=12)))
    ports.see("Node", node_body(version=7))
    ports.see_gone("Node", None, "n1", UID, 8)
    assert await ports.relist(NODE) == 1


async def test_a_recreated_object_of_any_version_is_no_sign() -> None:
    other = node_body(version=3)
    other["metadata"]["uid"] = "another"
    ports = ports_on(Kube(other))
    ports.see("Node", node_body(version=9))
    await ports.relist(NODE)
    record = ports.mirror.nodes.get(None, "n1")
    assert record is None or record.meta.uid == "another"


@pytest.mark.parametrize(
    ("kind", "version", "doubts"),
    [(None, 7, True), (None, 9, False), (None, 11, False), ("MODIFIED", 7, False)],
    ids=["older listing", "same listing", "newer listing", "late event"],
)
async def test_a_watch_that_begins_with_an_older_object_asks_for_a_listing(
    kind: str | None, version: int, doubts: bool
) -> None:
    ports = ports_on(Kube())
    ports.see("Node", node_body(version=9))
    await feed._handler(ports, NODE)({"type": kind, "object": node_body(version=version)})
    assert ports.doubt.is_set() == doubts


def test_a_doubt_brings_the_next_resync_forward_but_not_at_once() -> None:
    async def play() -> list[float]:
        kube = Kube()
        ports = ports_on(kube)
        task = asyncio.create_task(process._resync(ports))
        await asyncio.sleep(process.FIRST_RESYNC_S + 1)
        ports.doubt.set()
        await asyncio.sleep(process.DOUBT_S)
        await asyncio.sleep(300)
        task.cancel()
        return kube.listed

    first, resync = process.FIRST_RESYNC_S, Settings(identity="me", hook_image="kigi:dev").resync_s
    assert run_virtually(play) == [first, first + process.DOUBT_S, first + process.DOUBT_S + resync]


def test_the_work_ends_with_the_error_and_not_with_a_group_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        kube = Kube(node_body(version=9))
        ports = ports_on(kube)
        working = asyncio.create_task(process._work(ports))
        await asyncio.sleep(1)
        kube.nodes = [node_body(version=7)]
        await asyncio.wait_for(working, process.FIRST_RESYNC_S)

    monkeypatch.setattr(process.heartbeats, "list_heartbeats", _nothing)
    monkeypatch.setattr(process, "work", _nothing)
    with pytest.raises(ClusterRestored, match="etcd was restored from a backup; the operator starts again"):
        run_virtually(play)


async def _nothing(*_: object) -> None:
    return None


def test_the_process_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def restored(_: Settings) -> None:
        raise ClusterRestored("etcd was restored")

    monkeypatch.setattr(main, "run", restored)
    monkeypatch.setattr(main, "log_to_stderr", lambda _: None)
    monkeypatch.setattr(main.gc, "set_threshold", lambda *_: None)
    with pytest.raises(SystemExit, match="kigi-operator: etcd was restored"):
        main.main()
