"""Which peers are left out, and for how long; with manual time."""

from __future__ import annotations

from kigi.domain.layers import Digest
from kigi_cache.sources.peer_trust import DEFAULT_TRUST, MAX_REMEMBERED, PeerTrust
from tests.support.manual_clock import ManualClock

PEERS = {"a:1", "b:1", "c:1"}


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def world() -> tuple[PeerTrust, ManualClock]:
    time = ManualClock()
    return PeerTrust(clock=time.clock), time


def test_after_wrong_bytes_the_layer_is_not_asked_of_any_peer_until_it_is_right() -> None:
    trust, _ = world()
    trust.used(digest(1), "a:1")
    trust.wrong(digest(1))
    assert trust.trusted(PEERS, digest(1)) == set()
    assert trust.trusted(PEERS, digest(2)) == {"b:1", "c:1"}
    trust.right(digest(1))
    assert trust.trusted(PEERS, digest(1)) == {"b:1", "c:1"}


def test_wrong_bytes_of_the_repository_accuse_no_peer() -> None:
    trust, _ = world()
    trust.wrong(digest(1))
    assert trust.trusted(PEERS, digest(1)) == PEERS


def test_a_liar_is_left_out_for_longer_than_those_that_were_used_with_it() -> None:
    trust, time = world()
    trust.used(digest(1), "a:1")
    trust.wrong(digest(1))
    trust.used(digest(2), "b:1")
    trust.used(digest(2), "c:1")
    trust.wrong(digest(2))
    assert trust.trusted(PEERS, digest(3)) == set()
    time.advance(DEFAULT_TRUST.suspect_s + 1)
    assert trust.trusted(PEERS, digest(3)) == {"b:1", "c:1"}
    time.advance(DEFAULT_TRUST.wrong_s)
    assert trust.trusted(PEERS, digest(3)) == PEERS


def test_a_slow_peer_is_left_out_for_twice_as_long_each_time() -> None:
    trust, time = world()
    for strike in range(40):
        trust.slow("a:1", digest(1), "silent")
        expected = min(DEFAULT_TRUST.max_slow_s, DEFAULT_TRUST.slow_s * 2**strike)
        time.advance(expected - 1)
        assert "a:1" not in trust.trusted(PEERS, digest(1))
        time.advance(2)
        assert "a:1" in trust.trusted(PEERS, digest(1))


def test_a_complete_layer_ends_the_strikes() -> None:
    trust, time = world()
    for _ in range(5):
        trust.slow("a:1", digest(1), "silent")
    time.advance(DEFAULT_TRUST.max_slow_s + 1)
    trust.used(digest(2), "a:1")
    trust.right(digest(2))
    trust.slow("a:1", digest(1), "silent")
    time.advance(DEFAULT_TRUST.slow_s + 1)
    assert "a:1" in trust.trusted(PEERS, digest(1))


def test_a_peer_whose_bytes_were_right_stays_trusted() -> None:
    trust, _ = world()
    trust.used(digest(1), "a:1")
    trust.right(digest(1))
    trust.wrong(digest(1))
    assert trust.trusted(PEERS, digest(1)) == PEERS


def test_layers_that_are_given_up_are_forgotten() -> None:
    trust, _ = world()
    for number in range(2 * MAX_REMEMBERED):
        trust.used(digest(number), "a:1")
        trust.used(digest(number), "b:1")
    assert len(trust._used) == MAX_REMEMBERED
    for number in range(4 * MAX_REMEMBERED):
        trust.used(digest(number), "a:1")
        trust.wrong(digest(number))
    assert len(trust._wrong) == MAX_REMEMBERED


def test_peers_are_forgotten_that_are_no_members() -> None:
    trust, time = world()
    for number in range(10_000):
        trust.slow(f"peer-{number}:1", digest(number), "silent")
        time.advance(1.0)
    trust.trusted(PEERS, digest(1))
    assert trust._strikes == {}
    assert len(trust._until_s) <= DEFAULT_TRUST.slow_s + 1
