"""Which layers leave the cache, and which never do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.layers import Digest
from kigi.errors import BudgetExceeded
from kigi_cache.eviction import Budget, HeldLayer, evictable, keep_low, make_room


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def held(*sizes: int, links: dict[int, int] | None = None) -> list[HeldLayer]:
    """Layers 0, 1, ... of these sizes, needed in this order."""
    return [
        HeldLayer(digest(number), size, (links or {}).get(number, 0), float(number))
        for number, size in enumerate(sizes)
    ]


BUDGET = Budget(100)


def test_nothing_leaves_while_there_is_room() -> None:
    assert make_room(held(40, 40), used_bytes=80, needed_bytes=20, wanted=[], budget=BUDGET) == []
    assert keep_low(held(45, 45), used_bytes=90, wanted=[], budget=BUDGET) == []


def test_the_least_recently_needed_leave_first_and_no_more_than_must() -> None:
    assert make_room(held(40, 40, 10), used_bytes=90, needed_bytes=20, wanted=[], budget=BUDGET) == [digest(0)]
    assert make_room(held(5, 40, 40), used_bytes=85, needed_bytes=30, wanted=[], budget=BUDGET) == [
        digest(0),
        digest(1),
    ]


def test_layers_needed_at_the_same_time_leave_in_the_order_of_their_digests() -> None:
    layers = [HeldLayer(digest(number), 10) for number in (3, 1, 2)]
    assert [layer.digest for layer in evictable(layers, [])] == [digest(1), digest(2), digest(3)]


def test_linked_and_wanted_layers_stay() -> None:
    layers = held(30, 30, 30, links={0: 1})
    assert make_room(layers, used_bytes=90, needed_bytes=20, wanted={digest(1)}, budget=BUDGET) == [digest(2)]
    with pytest.raises(BudgetExceeded, match="KIGI_BUDGET_BYTES"):
        make_room(layers, used_bytes=90, needed_bytes=60, wanted={digest(1)}, budget=BUDGET)


def test_above_high_water_idle_layers_leave_down_to_low_water() -> None:
    assert keep_low(held(1, 5, 85), used_bytes=91, wanted=[], budget=BUDGET) == [digest(0), digest(1), digest(2)]
    assert keep_low(held(20, 71), used_bytes=91, wanted=[], budget=BUDGET) == [digest(0)]
    assert keep_low(held(20, 71, links={0: 1}), used_bytes=91, wanted={digest(1)}, budget=BUDGET) == []


layers = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2), st.floats(0, 9)), max_size=12).map(
    lambda rows: [HeldLayer(digest(n), size, links, when) for n, (size, links, when) in enumerate(rows)]
)


@given(layers, st.sets(st.integers(0, 11).map(digest)), st.integers(0, 200), st.integers(1, 300))
def test_eviction_makes_the_room_or_touches_nothing(
    layers: list[HeldLayer], wanted: set[Digest], needed: int, limit: int
) -> None:
    sizes = {layer.digest: layer.size_bytes for layer in layers}
    idle = {layer.digest for layer in layers if not layer.links} - wanted
    used = sum(sizes.values())
    try:
        victims = make_room(layers, used_bytes=used, needed_bytes=needed, wanted=wanted, budget=Budget(limit))
    except BudgetExceeded:
        assert used + needed - sum(sizes[d] for d in idle) > limit
        return
    assert set(victims) <= idle and len(set(victims)) == len(victims)
    left = used - sum(sizes[d] for d in victims)
    assert left + needed <= limit
    assert not victims or left + sizes[victims[-1]] + needed > limit
    for victim in keep_low(layers, used_bytes=used, wanted=wanted, budget=Budget(limit)):
        assert victim in idle
