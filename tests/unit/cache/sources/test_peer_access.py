"""Which daemons exist, and which tokens a daemon accepts; with manual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kigi.errors import Unreachable
from kigi_cache.sources.peer_access import (
    ACCEPTED_FOR_S,
    AUDIENCE,
    MAX_REMEMBERED,
    REFRESH_S,
    REJECTED_FOR_S,
    Members,
    PeerTokens,
    address,
)
from tests.support.manual_clock import ManualClock


class Api:
    def __init__(self) -> None:
        self.users = {"mine": "daemon", "theirs": "daemon", "other": "another account"}
        self.reviews = 0
        self.down = False
        self.found = ["10.0.0.1", "fd00::2", "10.0.0.9"]

    async def review_token(self, token: str, audience: str) -> str:
        assert audience == AUDIENCE
        self.reviews += 1
        if self.down:
            raise Unreachable("silent")
        return self.users.get(token, "")

    async def peer_addresses(self, namespace: str, service: str) -> list[str]:
        if self.down:
            raise Unreachable("silent")
        return self.found


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("mine\n")
    return path


async def test_only_tokens_of_the_daemons_own_account_are_accepted(token: Path) -> None:
    tokens = PeerTokens(Api(), token)
    assert await tokens.allowed("theirs")
    for stranger in ("other", "forged", "", "x" * 20000):
        assert not await tokens.allowed(stranger)


async def test_reviews_are_remembered(token: Path) -> None:
    api = Api()
    tokens = PeerTokens(api, token)
    for _ in range(5):
        assert await tokens.allowed("theirs")
        assert not await tokens.allowed("forged")
    assert api.reviews == 3
    api.down = True
    assert await tokens.allowed("theirs"), "a silent API server stops no transfer that was allowed a moment ago"
    assert not await tokens.allowed("new")


async def test_without_a_token_of_its_own_a_daemon_accepts_none(tmp_path: Path) -> None:
    tokens = PeerTokens(Api(), tmp_path / "none")
    assert tokens.own() == ""
    assert not await tokens.allowed("theirs")


async def test_a_silent_api_server_is_not_asked_about_the_same_token_with_each_request(token: Path) -> None:
    api, time = Api(), ManualClock()
    api.down = True
    tokens = PeerTokens(api, token, time.clock)
    for _ in range(1000):
        assert not await tokens.allowed("theirs")
    assert api.reviews == 1
    api.down = False
    time.advance(REJECTED_FOR_S + 1)
    assert await tokens.allowed("theirs")


async def test_an_accepted_token_expires_and_a_rejected_one_sooner(token: Path) -> None:
    api, time = Api(), ManualClock()
    tokens = PeerTokens(api, token, time.clock)
    assert await tokens.allowed("theirs")
    assert not await tokens.allowed("late")
    api.users = {"mine": "daemon", "late": "daemon"}
    assert await tokens.allowed("theirs"), "it was accepted a moment ago"
    assert not await tokens.allowed("late")
    time.advance(REJECTED_FOR_S + 1)
    assert await tokens.allowed("late")
    time.advance(ACCEPTED_FOR_S + 1)
    assert not await tokens.allowed("theirs")


async def test_own_and_foreign_tokens_are_rotated_by_the_kubelet(token: Path) -> None:
    api, time = Api(), ManualClock()
    tokens = PeerTokens(api, token, time.clock)
    assert await tokens.allowed("theirs")
    api.users.clear()
    time.advance(ACCEPTED_FOR_S + 1)
    assert not await tokens.allowed("theirs")
    api.users |= {"next": "daemon", "theirs-2": "daemon"}
    token.write_text("next")
    assert await tokens.allowed("theirs-2")


async def test_forged_tokens_do_not_fill_the_memory(token: Path) -> None:
    tokens = PeerTokens(Api(), token)
    for number in range(100_000):
        await tokens._user(f"forged {number}")
    assert len(tokens._known) <= MAX_REMEMBERED


@asynccontextmanager
async def listing(api: Api, time: ManualClock) -> AsyncIterator[Members]:
    members = Members(api, "kigi-system", "kigi-peers", "10.0.0.9:9781", time.clock)
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


async def test_members_are_listed_again_and_stay_while_the_api_server_is_silent() -> None:
    api, time = Api(), ManualClock()
    async with listing(api, time) as members:
        api.found = ["10.0.0.3"]
        api.down = True
        time.advance(REFRESH_S)
        assert await time.next_wake() == 2 * REFRESH_S
        assert len(members()) == 2
        api.down = False
        time.advance(REFRESH_S)
        assert await time.next_wake() == 3 * REFRESH_S
        assert set(members()) == {"10.0.0.3:9781"}


@pytest.mark.parametrize(("ip", "text"), [("10.0.0.1", "10.0.0.1:9781"), ("fd00::2", "[fd00::2]:9781")])
def test_addresses_of_both_families(ip: str, text: str) -> None:
    assert address(ip, 9781) == address(ip, "9781") == text
