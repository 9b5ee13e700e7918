"""Elections with a clock and a server of their own: several candidates, none of which trusts another's clock."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kigi.adapters.kubernetes.resources import Resource
from kigi.errors import Conflict, LostLeadership, Unreachable
from kigi.runtime.leader import Election


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Holds one Lease, with the API server's rule on versions."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise Unreachable("down")

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        self._check()
        return copy.deepcopy(self.lease)

    async def create(self, resource: Resource, manifest: dict[str, Any]) -> dict[str, Any]:
        self._check()
        if self.lease is not None:
            raise Conflict("exists")
        return self._store(manifest)

    async def replace(self, resource: Resource, manifest: dict[str, Any]) -> dict[str, Any]:
        self._check()
        if manifest["metadata"].get("resourceVersion") != str(self.version):
            raise Conflict("changed")
        return self._store(manifest)

    def _store(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return self.lease


def candidate(server: Server, clock: Clock, name: str) -> Election:
    async def sleep(seconds: float) -> None:
        clock.now += seconds

    return Election(server, namespace="n", identity=name, lease_s=15, clock=clock, sleep=sleep)


async def test_the_first_leads_and_the_second_does_not() -> None:
    server, clock = Server(), Clock()
    first, second = candidate(server, clock, "a"), candidate(server, clock, "b")
    assert await first.attempt()
    assert not await second.attempt()
    first.guard()
    with pytest.raises(LostLeadership):
        second.guard()


async def test_a_dead_leader_is_followed_after_its_lease_and_not_before() -> None:
    server, clock = Server(), Clock()
    first, second = candidate(server, clock, "a"), candidate(server, clock, "b")
    assert await first.attempt()
    assert not await second.attempt()
    clock.now = 14.9
    assert not await second.attempt()
    assert not first.is_leader, "the old leader has stopped before anybody else may begin"
    clock.now = 15.1
    assert await second.attempt()


async def test_a_leader_that_renews_is_not_followed() -> None:
    server, clock = Server(), Clock()
    first, second = candidate(server, clock, "a"), candidate(server, clock, "b")
    for step in range(20):
        clock.now = step * 5.0
        assert await first.attempt()
        assert not await second.attempt()


async def test_a_server_that_is_down_costs_the_leadership_in_time() -> None:
    server, clock = Server(), Clock()
    first = candidate(server, clock, "a")
    await first.acquire()
    server.down = True
    await first.hold()
    assert clock.now <= 15
    with pytest.raises(LostLeadership):
        first.guard()
    server.down = False
    await first.acquire()
    first.guard()


async def test_a_released_lease_is_acquired_immediately() -> None:
    server, clock = Server(), Clock()
    first, second = candidate(server, clock, "a"), candidate(server, clock, "b")
    assert await first.attempt()
    assert not await second.attempt()
    await first.release()
    assert not first.is_leader
    assert await second.attempt()


async def test_two_candidates_that_see_the_end_concurrently_do_not_both_lead() -> None:
    server, clock = Server(), Clock()
    first = candidate(server, clock, "a")
    others = [candidate(server, clock, name) for name in "bcd"]
    assert await first.attempt()
    for other in others:
        await other.attempt()
    clock.now = 20
    assert sum([await other.attempt() for other in others]) == 1


async def test_a_leader_that_slept_past_its_lease_and_was_followed_stays_out() -> None:
    server, clock = Server(), Clock()
    first, second = candidate(server, clock, "a"), candidate(server, clock, "b")
    assert await first.attempt()
    await second.attempt()
    clock.now = 16
    assert await second.attempt()
    with pytest.raises(LostLeadership):
        first.guard()
    assert not await first.attempt()


async def test_the_lease_shows_the_leaders_version_and_keeps_other_annotations() -> None:
    server, clock = Server(), Clock()
    old = Election(server, namespace="n", identity="a", version="0.1.0", clock=clock)
    assert await old.attempt()
    server.lease["metadata"]["annotations"]["example.org/kept"] = "yes"
    await old.release()
    new = Election(server, namespace="n", identity="b", version="0.2.0", clock=clock)
    assert await new.attempt()
    assert server.lease["metadata"]["annotations"] == {"kigi.dev/version": "0.2.0", "example.org/kept": "yes"}
