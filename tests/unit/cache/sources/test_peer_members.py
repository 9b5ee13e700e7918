"""Which daemons exist; with manual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kigi.errors import Unreachable
from kigi_cache.sources.peer_members import REFRESH_S, Members, address, one_for_each_node
from tests.support.manual_clock import ManualClock


class Api:
    def __init__(self) -> None:
        self.down = False
        self.found = {"10.0.0.1": "a", "fd00::2": "b", "10.0.0.9": "me"}

    async def peer_addresses(self, namespace: str, service: str) -> dict[str, str]:
        if self.down:
            raise Unreachable("silent")
        return self.found


@asynccontextmanager
async def listing(api: Api, time: ManualClock) -> AsyncIterator[Members]:
    members = Members(api, "kigi-system", "kigi-peers", ips=("10.0.0.9",), port=9781, clock=time.clock)
    task = asyncio.create_task(members.run())
    try:
        assert await time.next_wake() == REFRESH_S
        yield members
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_members_are_the_others_behind_the_service() -> None:
    async with listing(Api(), ManualClock()) as members:
        assert set(members()) == {"10.0.0.1:9781", "[fd00::2]:9781"}
        assert members.node_of("[fd00::2]:9781") == "b"
        assert members.node_of("10.0.0.9:9781") is None, "not a peer of itself"
        assert members.node_of("10.0.0.1:1") is None


async def test_members_are_listed_again_and_stay_while_the_api_server_is_silent() -> None:
    api, time = Api(), ManualClock()
    async with listing(api, time) as members:
        api.found = {"10.0.0.3": "c"}
        api.down = True
        time.advance(REFRESH_S)
        assert await time.next_wake() == 2 * REFRESH_S
        assert len(members()) == 2
        api.down = False
        time.advance(REFRESH_S)
        assert await time.next_wake() == 3 * REFRESH_S
        assert set(members()) == {"10.0.0.3:9781"}


DUAL = {"10.0.0.1": "a", "fd00::1": "a", "fd00::2": "b", "10.0.0.3": "c", "10.0.0.9": "me", "fd00::9": "me"}


@pytest.mark.parametrize(
    ("own", "peers"),
    [
        (("10.0.0.9", "fd00::9"), {"10.0.0.1": "a", "fd00::2": "b", "10.0.0.3": "c"}),
        (("fd00::9", "10.0.0.9"), {"fd00::1": "a", "fd00::2": "b", "10.0.0.3": "c"}),
        (("fd00::9",), {"fd00::1": "a", "fd00::2": "b", "10.0.0.3": "c"}),
    ],
    ids=["IPv4 first", "IPv6 first", "one own address is known"],
)
def test_a_dual_stack_node_is_one_peer_at_an_address_of_the_preferred_family(
    own: tuple[str, ...], peers: dict[str, str]
) -> None:
    assert one_for_each_node(DUAL, own) == peers
    assert one_for_each_node(dict(reversed(DUAL.items())), own) == peers


def test_a_daemon_that_is_not_yet_an_endpoint_is_no_peer_of_itself() -> None:
    assert one_for_each_node({"10.0.0.1": "a"}, ("10.0.0.9",)) == {"10.0.0.1": "a"}


@pytest.mark.parametrize(("ip", "text"), [("10.0.0.1", "10.0.0.1:9781"), ("fd00::2", "[fd00::2]:9781")])
def test_addresses_of_both_families(ip: str, text: str) -> None:
    assert address(ip, 9781) == address(ip, "9781") == text
