"""The watches of disks and VMs: what they take in, and where they continue after an end, an error or a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kigi.adapters.kubernetes.api_requests import Request
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CHILDREN, VOLUME, WATCHED
from kigi.adapters.kubernetes.watch import WatchEvent
from kigi.errors import Expired, KigiError, NotFound, Unreachable
from kigi.handlers.children import ChildTimes, ChildWatch
from kigi.mirror.store import Mirror
from kigi.process import FEED
from kigi.runtime.ports import ClusterRestored, Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.bodies import target, volume_body

QUICK = ChildTimes(backoff_s=(0.001, 0.002), pause_s=0.0)


class Broken(list[WatchEvent]):
    """Events before the watch breaks off."""


class Api:
    """Lists ``volumes``; each watch streams the next entry of ``streams`` and ends, or raises the entry's error."""

    def __init__(self) -> None:
        self.volumes: list[dict[str, Any]] = []
        self.streams: list[list[WatchEvent] | KigiError] = []
        self.asked: list[str] = []
        self.refusals: list[Exception] = []

    async def list_version(self, resource: Any) -> tuple[list[dict[str, Any]], str]:
        self.asked.append("list")
        if self.refusals:
            raise self.refusals.pop(0)
        return [], "7"

    async def list_all(self, resource: Any) -> AsyncIterator[dict[str, Any]]:
        assert resource is VOLUME
        for volume in self.volumes:
            yield volume

    async def watch(self, resource: Any, **options: Any) -> AsyncIterator[WatchEvent]:
        assert options["bookmarks"]
        self.asked.append(options["resource_version"])
        if not self.streams:
            raise asyncio.CancelledError
        stream = self.streams.pop(0)
        if isinstance(stream, KigiError):
            raise stream
        for event in stream:
            yield event
        if isinstance(stream, Broken):
            raise Unreachable("cut")


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def ports(api: Api) -> Ports:
    settings = Settings(namespace="kigi-system", identity="x")
    return Ports(kube=api, mirror=Mirror(lambda: 0.0), queue=WorkQueue(), settings=settings)  # type: ignore[arg-type]


async def run(ports: Ports) -> None:
    """Until every stream of the API is read."""
    with pytest.raises(asyncio.CancelledError):
        await ChildWatch(ports, VOLUME, QUICK).run()


def volume(version: int, machine: str = "m") -> dict[str, Any]:
    return volume_body(target(machine)) | {"metadata": _meta(machine, version)}


def _meta(machine: str, version: int) -> dict[str, Any]:
    return {**volume_body(target(machine))["metadata"], "resourceVersion": str(version)}


def bookmark(version: int) -> WatchEvent:
    return WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def names(ports: Ports) -> list[str]:
    return sorted(record.slot[1] for record in ports.mirror.volumes)


def test_each_kind_has_one_watch() -> None:
    assert sorted(r.kind for r in (*FEED, *CHILDREN)) == sorted(r.kind for r in WATCHED)


async def test_listing_and_changes_are_in_the_mirror(api: Api, ports: Ports) -> None:
    api.volumes = [volume(3, "a"), volume(4, "b")]
    api.streams = [[WatchEvent("ADDED", volume(8, "c")), WatchEvent("DELETED", volume(9, "a"))]]
    await run(ports)
    assert names(ports) == ["b", "c"]


async def test_a_watch_that_ends_continues_at_its_last_event(api: Api, ports: Ports) -> None:
    api.streams = [[WatchEvent("ADDED", volume(8))], [bookmark(30)], [], [WatchEvent("DELETED", volume(31))]]
    await run(ports)
    assert api.asked == ["list", "7", "8", "30", "30", "31"]
    assert names(ports) == []


async def test_after_an_error_it_continues_and_lists_only_when_it_must(api: Api, ports: Ports) -> None:
    api.streams = [[bookmark(9)], Unreachable("cut"), [bookmark(12)], Expired("410"), Unreachable("cut")]
    await run(ports)
    assert api.asked == ["list", "7", "9", "9", "12", "list", "7", "7"]


async def test_what_was_deleted_in_a_gap_goes_with_the_listing(api: Api, ports: Ports) -> None:
    api.volumes = [volume(3, "a"), volume(4, "b")]
    api.streams = [[], Expired("410")]
    api.list_all = two_listings(api, [volume(3, "a"), volume(4, "b")], [volume(4, "b")])  # type: ignore[method-assign]
    await run(ports)
    assert names(ports) == ["b"]


def two_listings(api: Api, *listings: list[dict[str, Any]]) -> Any:
    left = list(listings)

    async def list_all(resource: Any) -> AsyncIterator[dict[str, Any]]:
        for body in left.pop(0):
            yield body

    return list_all


async def test_a_kind_that_is_not_served_is_asked_for_again(api: Api, ports: Ports) -> None:
    api.refusals = [NotFound("kind"), NotFound("kind"), Unreachable("down")]
    api.streams = [[WatchEvent("ADDED", volume(8))], NotFound("the kind is gone")]
    await run(ports)
    assert api.asked == ["list", "list", "list", "list", "7", "8", "list", "7"]
    assert names(ports) == [], "the kind has gone with its objects"


@pytest.mark.parametrize("damage", [{"spec": []}, {"metadata": {"resourceVersion": "8"}}])
@pytest.mark.parametrize("kind", ["ADDED", "DELETED"])
async def test_an_object_that_cannot_be_read_does_not_end_the_watch(
    api: Api, ports: Ports, kind: Any, damage: dict[str, Any]
) -> None:
    api.streams = [[WatchEvent(kind, {**volume(8, "a"), **damage}), WatchEvent("ADDED", volume(9, "b"))]]
    await run(ports)
    assert "b" in names(ports)
    assert api.asked[-1] == "9"


async def test_a_watch_that_works_between_its_errors_is_opened_again_soon(
    api: Api, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)

    watch = ChildWatch(ports, VOLUME, ChildTimes(backoff_s=(0.5, 15.0), pause_s=0.0))
    cut = Broken([bookmark(8)])
    api.streams = [Unreachable("cut")] * 4 + [cut, Unreachable("cut"), cut, []]
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert delays == [0.5, 1.0, 2.0, 4.0, 0.5, 1.0, 0.5, 0.0]


async def test_after_several_failures_it_lists_again(api: Api, ports: Ports) -> None:
    api.streams = [Unreachable("too large resource version")] * 5
    await run(ports)
    assert api.asked[:3] == ["list", "7", "7"]
    assert api.asked.count("list") >= 3


@pytest.mark.parametrize("damage", [KeyError("metadata"), AssertionError(), IndexError()])
async def test_an_answer_that_is_no_listing_does_not_end_the_operator(
    api: Api, ports: Ports, damage: Exception
) -> None:
    api.refusals = [damage, damage]
    api.streams = [[WatchEvent("ADDED", volume(8))]]
    await run(ports)
    assert api.asked == ["list", "list", "list", "7", "8"]


async def test_an_older_version_leads_to_a_listing_that_finds_a_restored_etcd(api: Api, ports: Ports) -> None:
    ports.see("PersistentVolume", volume(900))
    api.list_all = two_listings(api, [volume(900)], [volume(5)])  # type: ignore[method-assign]
    api.streams = [[bookmark(950), bookmark(40)]]
    with pytest.raises(ClusterRestored):
        await ChildWatch(ports, VOLUME, QUICK).run()


async def test_one_object_is_read_to_learn_the_version(api: Api) -> None:
    """A tenant's VMs may have 1.5 MB each, and a page is read at once."""
    asked: list[Request] = []

    class Connection:
        async def send(self, request: Request, **_: Any) -> dict[str, Any]:
            asked.append(request)
            return {"metadata": {"resourceVersion": "7"}, "items": []}

    kube = KubeClient.__new__(KubeClient)
    kube._connection = Connection()  # type: ignore[assignment]
    assert await kube.list_version(VOLUME) == ([], "7")
    assert asked[0].query["limit"] == "1"


async def test_a_restored_etcd_ends_the_operator(api: Api, ports: Ports) -> None:
    ports.see("PersistentVolume", volume(900))
    api.volumes = [volume(5)]
    with pytest.raises(ClusterRestored):
        await ChildWatch(ports, VOLUME, QUICK).run()
