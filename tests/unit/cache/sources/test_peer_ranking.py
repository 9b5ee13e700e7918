"""Which nodes a node asks for a layer, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.layers import Digest
from kigi_cache.sources.peer_ranking import MAX_ASKED, ranked, sources


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


MEMBERS = [f"10.0.0.{n}:9781" for n in range(8)]
members = st.sets(st.sampled_from(MEMBERS), min_size=1)


@given(members, st.integers(0, 2**64))
def test_exactly_one_node_asks_the_repository_first_and_no_nodes_wait_in_a_cycle(found: set[str], number: int) -> None:
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
        assert len(asked) == len(set(asked)) <= MAX_ASKED


def test_transfers_form_a_tree_in_which_each_serves_about_two() -> None:
    serves = dict.fromkeys(MEMBERS, 0)
    for me in MEMBERS:
        first = sources(digest(7), MEMBERS, me)[:1]
        for peer, unfinished in first:
            serves[peer] += unfinished
    assert max(serves.values()) <= 2


def test_different_layers_start_at_different_nodes() -> None:
    first = {ranked(digest(number), MEMBERS)[0] for number in range(100)}
    assert first == set(MEMBERS)


def test_a_node_that_leaves_changes_only_the_layers_that_it_was_first_for() -> None:
    for number in range(50):
        before = ranked(digest(number), MEMBERS)
        after = ranked(digest(number), MEMBERS[1:])
        assert after == [member for member in before if member != MEMBERS[0]]


def test_the_docstring_shows_the_order_of_three_nodes() -> None:
    a, b, c = ranked(digest(1), MEMBERS[:3])
    assert sources(digest(1), {a, b, c}, a) == [(b, False), (c, False)]
    assert sources(digest(1), {a, b, c}, b) == [(a, True), (c, False)]
    assert sources(digest(1), {a, b, c}, c) == [(a, True), (b, True)]


def test_a_node_that_is_not_listed_yet_ranks_itself() -> None:
    assert sources(digest(1), (), "me:1") == []
    (other,) = sources(digest(1), ["other:1"], "me:1")
    assert other[0] == "other:1"
