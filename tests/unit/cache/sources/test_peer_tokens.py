"""Which tokens a daemon accepts, and what the others cost; with manual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kigi.errors import Unreachable
from kigi_cache.sources.peer_tokens import (
    ACCEPTED_FOR_S,
    AUDIENCE,
    CLOCKS_DIFFER_S,
    KEYS_AGAIN_S,
    MAX_REMEMBERED,
    REJECTED_FOR_S,
    REVIEW_WAIT_S,
    REVIEWS_PER_S,
    PeerTokens,
)
from tests.support.manual_clock import ManualClock
from tests.support.scripted_fills import soon
from tests.support.tokens import ACCOUNT, Issuer, forgeries

REAL = Issuer()


class Api:
    def __init__(self) -> None:
        self.issuers = [REAL]
        self.user = ACCOUNT
        self.reviews: list[str] = []
        self.keys_read = 0
        self.down = False
        self.keys: Any = None

    async def review_token(self, token: str, audience: str) -> str:
        assert audience == AUDIENCE
        self.reviews.append(token)
        await asyncio.sleep(0)
        if self.down:
            raise Unreachable("silent")
        return self.user

    async def token_keys(self) -> dict[str, Any]:
        self.keys_read += 1
        if self.down:
            raise Unreachable("silent")
        if self.keys is not None:
            return self.keys  # type: ignore[no-any-return]
        return {"keys": [key for issuer in self.issuers for key in issuer.keys["keys"]]}


class World:
    def __init__(self, directory: Path) -> None:
        self.api, self.time = Api(), ManualClock()
        self.path = directory / "token"
        self.path.write_text(REAL.token("me") + "\n")
        self.tokens = PeerTokens(self.api, self.path, self.time.clock)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_daemon_is_known_by_its_pod(world: World) -> None:
    assert await world.tokens.peer(REAL.token("b")) == "uid-b"
    assert await world.tokens.peer(REAL.token("c", **{"kubernetes.io": None})) == ACCOUNT


@pytest.mark.parametrize("kind", forgeries(REAL))
async def test_a_forged_token_costs_the_api_server_no_review(world: World, kind: str) -> None:
    assert await world.tokens.peer(forgeries(REAL)[kind]) == ""
    assert world.api.reviews == []
    assert await world.tokens.peer(REAL.token("b"))


@pytest.mark.parametrize("token", ["", "x" * 20000])
async def test_tokens_of_no_length_or_too_long_are_not_even_read(world: World, token: str) -> None:
    assert await world.tokens.peer(token) == ""
    assert (world.api.reviews, world.api.keys_read) == ([], 0)


async def test_the_api_server_may_reject_a_signed_token(world: World) -> None:
    world.api.user = ""
    assert await world.tokens.peer(REAL.token("deleted")) == ""
    world.api.user = "system:serviceaccount:other:account"
    world.time.advance(REJECTED_FOR_S + 1)
    assert await world.tokens.peer(REAL.token("deleted")) == ""


async def test_a_token_with_an_unknown_key_reads_the_keys_rarely(world: World) -> None:
    await world.tokens.peer(REAL.token("b"))
    for number in range(1000):
        assert await world.tokens.peer(REAL.token(header={"kid": f"made-up {number}"})) == ""
    assert world.api.keys_read == 1
    world.time.advance(KEYS_AGAIN_S + 1)
    await asyncio.gather(*(world.tokens.peer(REAL.token(header={"kid": str(n)})) for n in range(100)))
    assert world.api.keys_read == 2


async def test_a_new_key_of_the_api_server_is_found(world: World) -> None:
    new = Issuer("k2")
    await world.tokens.peer(REAL.token("b"))
    world.api.issuers.append(new)
    world.time.advance(KEYS_AGAIN_S + 1)
    assert await world.tokens.peer(new.token("c")) == "uid-c"


@pytest.mark.parametrize("keys", [{}, {"keys": []}, {"keys": "x"}, {"keys": [{"kty": "EC"}]}, [], {"keys": [1]}])
async def test_keys_that_cannot_be_read_accept_nobody(world: World, keys: Any) -> None:
    world.api.keys = keys
    assert await world.tokens.peer(REAL.token("b")) == ""
    assert world.api.reviews == []


async def test_reviews_are_remembered(world: World) -> None:
    token = REAL.token("b")
    for _ in range(5):
        assert await world.tokens.peer(token)
    assert len(world.api.reviews) == 1
    world.api.down = True
    world.time.advance(1.0)
    assert await world.tokens.peer(token), "a silent API server stops no transfer that was allowed a moment ago"
    assert not await world.tokens.peer(REAL.token("new"))


async def test_requests_that_begin_together_are_reviewed_once(world: World) -> None:
    token = REAL.token("b")
    found = await asyncio.gather(*(world.tokens.peer(token) for _ in range(50)))
    assert (set(found), len(world.api.reviews)) == ({"uid-b"}, 1)


async def test_no_second_has_more_reviews_than_the_limit(world: World) -> None:
    """A stolen node has real tokens, as many as it wants; the last ones are refused, and some wait for their turn."""
    asked = [asyncio.create_task(world.tokens.peer(REAL.token(str(number)))) for number in range(100)]
    refused = 100 - REVIEWS_PER_S * (1 + int(REVIEW_WAIT_S))
    await soon(lambda: sum(task.done() for task in asked) == REVIEWS_PER_S + refused)
    for second in range(1, 4):
        assert len(world.api.reviews) == second * REVIEWS_PER_S
        world.time.advance(0.9)
        await asyncio.sleep(0.01)
        assert len(world.api.reviews) == second * REVIEWS_PER_S
        world.time.advance(0.1)
        expected = refused + REVIEWS_PER_S * min(3, second + 1)
        await soon(lambda expected=expected: sum(task.done() for task in asked) == expected)  # type: ignore[misc]
    assert sum(bool(task.result()) for task in asked) == 100 - refused


async def test_a_token_that_was_refused_for_the_limit_is_reviewed_later(world: World) -> None:
    waiting = [asyncio.create_task(world.tokens.peer(REAL.token(str(number)))) for number in range(15)]
    await soon(lambda: len(world.time.pending()) == 10)
    assert not await world.tokens.peer(REAL.token("late"))
    world.time.advance(3.0)
    await asyncio.gather(*waiting)
    assert await world.tokens.peer(REAL.token("late"))


async def test_without_a_token_of_its_own_a_daemon_accepts_none(world: World) -> None:
    world.path.unlink()
    assert world.tokens.own() == ""
    assert not await world.tokens.peer(REAL.token("b"))


async def test_a_silent_api_server_is_not_asked_about_the_same_token_with_each_request(world: World) -> None:
    assert await world.tokens.peer(REAL.token("first"))
    world.api.down = True
    token = REAL.token("b")
    for _ in range(1000):
        assert not await world.tokens.peer(token)
    assert len(world.api.reviews) == 2
    world.api.down = False
    world.time.advance(REJECTED_FOR_S + 1)
    assert await world.tokens.peer(token)


async def test_an_accepted_token_is_reviewed_again_and_a_rejected_one_sooner(world: World) -> None:
    theirs, late = REAL.token("b"), REAL.token("late")
    assert await world.tokens.peer(theirs)
    world.api.user = ""
    assert not await world.tokens.peer(late)
    world.api.user = ACCOUNT
    assert not await world.tokens.peer(late)
    world.time.advance(REJECTED_FOR_S + 1)
    assert await world.tokens.peer(late)
    world.api.user = ""
    assert await world.tokens.peer(theirs), "it was accepted a moment ago"
    world.time.advance(ACCEPTED_FOR_S + 1)
    assert not await world.tokens.peer(theirs)


async def test_an_accepted_token_expires(world: World) -> None:
    token = REAL.token("b", exp=world.time.clock.wall_s() + 10)
    assert await world.tokens.peer(token)
    world.time.advance(CLOCKS_DIFFER_S + 11)
    assert not await world.tokens.peer(token)


async def test_the_own_token_is_rotated_by_the_kubelet(world: World) -> None:
    other = Issuer("k2", issuer="https://renamed")
    world.api.issuers.append(other)
    assert not await world.tokens.peer(other.token("b"))
    world.path.write_text(other.token("me"))
    assert await world.tokens.peer(other.token("b"))
    assert world.tokens.own() == world.path.read_text()


async def test_tokens_do_not_fill_the_memory(world: World) -> None:
    world.tokens._known = {bytes([n % 256, n // 256]): (True, 1e9) for n in range(MAX_REMEMBERED)}
    assert await world.tokens.peer(REAL.token("b"))
    assert len(world.tokens._known) == MAX_REMEMBERED
