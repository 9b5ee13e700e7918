"""Who asks whom for a layer, and who is believed to be a daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.layers import Digest
from kigi.errors import Unreachable
from kigi_cache.sources.peer_access import AUDIENCE, Members, PeerTokens, address
from kigi_cache.sources.peer_ranking import ASKED_AT_MOST, ranked, sources
from tests.support.cluster import eventually_async


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


MEMBERS = [f"10.0.0.{n}:9781" for n in range(8)]
members = st.sets(st.sampled_from(MEMBERS), min_size=1)


@given(members, st.integers(0, 2**64))
def test_just_one_node_asks_the_repository_first_and_nobody_waits_in_a_circle(found: set[str], number: int) -> None:
    order = ranked(digest(number), found)
    waits_for = {me: [p for p, unfinished in sources(digest(number), found, me) if unfinished] for me in found}
    assert [me for me in found if not waits_for[me]] == order[:1]
    for me, peers in waits_for.items():
        assert all(order.index(peer) < order.index(me) for peer in peers)
        assert me not in peers


@given(members, st.integers(0, 2**64))
def test_a_node_asks_a_few_and_each_once(found: set[str], number: int) -> None:
    for me in found:
        asked = [peer for peer, _ in sources(digest(number), found, me)]
        assert len(asked) == len(set(asked)) <= ASKED_AT_MOST


def test_transfers_form_a_tree_in_which_each_serves_about_two() -> None:
    serves = dict.fromkeys(MEMBERS, 0)
    for me in MEMBERS:
        first = sources(digest(7), MEMBERS, me)[:1]
        for peer, unfinished in first:
            serves[peer] += unfinished
    assert max(serves.values()) <= 2


def test_layers_begin_at_different_nodes() -> None:
    first = {ranked(digest(number), MEMBERS)[0] for number in range(100)}
    assert first == set(MEMBERS)


def test_a_node_that_is_gone_moves_its_own_layers_alone() -> None:
    for number in range(50):
        before = ranked(digest(number), MEMBERS)
        after = ranked(digest(number), MEMBERS[1:])
        assert after == [member for member in before if member != MEMBERS[0]]


class Api:
    def __init__(self) -> None:
        self.users = {"mine": "daemon", "theirs": "daemon", "other": "somebody"}
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
        return self.found


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("mine\n")
    return path


async def test_only_a_token_of_the_daemons_own_account_is_believed(token: Path) -> None:
    api = Api()
    tokens = PeerTokens(api, token)
    assert await tokens.allowed("theirs")
    for stranger in ("other", "forged", "", "x" * 20000):
        assert not await tokens.allowed(stranger)


async def test_answers_are_remembered(token: Path) -> None:
    api = Api()
    tokens = PeerTokens(api, token)
    for _ in range(5):
        assert await tokens.allowed("theirs")
        assert not await tokens.allowed("forged")
    assert api.reviews == 3
    api.down = True
    assert await tokens.allowed("theirs"), "a silent API server stops no transfer that was allowed a moment ago"
    assert not await tokens.allowed("new")


async def test_without_a_token_of_its_own_a_daemon_believes_nobody(tmp_path: Path) -> None:
    tokens = PeerTokens(Api(), tmp_path / "none")
    assert tokens.own() == ""
    assert not await tokens.allowed("theirs")


async def test_members_are_the_others_behind_the_service() -> None:
    listed = Members(Api(), "kigi-system", "kigi-peers", "10.0.0.9:9781")
    task = asyncio.create_task(listed.run())
    await eventually_async(lambda: set(listed()))
    task.cancel()
    assert set(listed()) == {"10.0.0.1:9781", "[fd00::2]:9781"}
    assert address("fd00::2", 9781) == "[fd00::2]:9781"
