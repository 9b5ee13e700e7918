"""Which layers are evicted, in which order, and which never are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.layers import Digest
from kigi.errors import BudgetExceeded
from kigi_cache.layers.eviction import (
    Budget,
    HeldLayer,
    Need,
    evictable,
    need_of,
    victims_above_high_water,
    victims_beyond,
    victims_for_budget,
    victims_freeing,
)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def held(*sizes: int, links: dict[int, int] | None = None) -> list[HeldLayer]:
    """Layers 0, 1, ... of these sizes, needed in this order."""
    return [
        HeldLayer(digest(number), size, (links or {}).get(number, 0), float(number))
        for number, size in enumerate(sizes)
    ]


BUDGET = Budget(100)


def test_nothing_is_evicted_while_there_is_space() -> None:
    assert victims_for_budget(held(40, 40), used_bytes=80, needed_bytes=20, needs={}, budget=BUDGET) == []
    assert victims_above_high_water(held(45, 45), used_bytes=90, needs={}, budget=BUDGET) == []


def test_the_least_recently_needed_go_first_and_no_more_than_necessary() -> None:
    assert victims_for_budget(held(40, 40, 10), used_bytes=90, needed_bytes=20, needs={}, budget=BUDGET) == [digest(0)]
    assert victims_for_budget(held(5, 40, 40), used_bytes=85, needed_bytes=30, needs={}, budget=BUDGET) == [
        digest(0),
        digest(1),
    ]


def test_layers_needed_at_the_same_time_go_in_the_order_of_their_digests() -> None:
    layers = [HeldLayer(digest(number), 10) for number in (3, 1, 2)]
    assert [layer.digest for layer in evictable(layers, {}, below=Need.WANTED)] == [digest(1), digest(2), digest(3)]


def test_idle_layers_beyond_a_number_are_evicted_however_small_they_are() -> None:
    layers = held(1, 1, 1, 1, links={0: 1})
    assert victims_beyond(layers, {digest(1): Need.WANTED, digest(2): Need.PREFETCH}, 1) == [digest(3)]
    assert victims_beyond(layers, {}, 2) == [digest(1), digest(2)]
    assert victims_beyond(layers, {}, 4) == []


def test_linked_and_wanted_layers_stay() -> None:
    layers = held(30, 30, 30, links={0: 1})
    needs = {digest(1): Need.WANTED}
    assert victims_for_budget(layers, used_bytes=90, needed_bytes=20, needs=needs, budget=BUDGET) == [digest(2)]
    with pytest.raises(BudgetExceeded, match="KIGI_BUDGET_BYTES"):
        victims_for_budget(layers, used_bytes=90, needed_bytes=60, needs=needs, budget=BUDGET)


def test_above_high_water_idle_layers_are_evicted_down_to_low_water() -> None:
    def victims(layers: list[HeldLayer], needs: dict[Digest, Need]) -> list[Digest]:
        return victims_above_high_water(layers, used_bytes=91, needs=needs, budget=BUDGET)

    assert victims(held(1, 5, 85), {}) == [digest(0), digest(1), digest(2)]
    assert victims(held(20, 71), {}) == [digest(0)]
    assert victims(held(20, 71, links={0: 1}), {digest(1): Need.WANTED}) == []


layers = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2), st.floats(0, 9)), max_size=12).map(
    lambda rows: [HeldLayer(digest(n), size, links, when) for n, (size, links, when) in enumerate(rows)]
)


NEEDS = [Need.IDLE, Need.PREFETCH, Need.WANTED, Need.RUNNING]
requests = st.dictionaries(st.integers(0, 11).map(digest), st.sampled_from(NEEDS))


@given(layers, requests, st.integers(0, 200), st.integers(1, 300), st.sampled_from([Need.PREFETCH, Need.WANTED]))
def test_eviction_makes_enough_space_or_touches_nothing(
    layers: list[HeldLayer], needs: dict[Digest, Need], needed: int, limit: int, requester: Need
) -> None:
    sizes = {layer.digest: layer.size_bytes for layer in layers}
    candidates = {layer.digest for layer in layers if need_of(layer, needs) < requester}
    used = sum(sizes.values())
    budget = Budget(limit)
    try:
        victims = victims_for_budget(
            layers, used_bytes=used, needed_bytes=needed, needs=needs, budget=budget, requester=requester
        )
    except BudgetExceeded:
        assert used + needed - sum(sizes[d] for d in candidates) > limit
        return
    assert set(victims) <= candidates
    assert len(set(victims)) == len(victims)
    left = used - sum(sizes[d] for d in victims)
    assert left + needed <= limit
    assert not victims or left + sizes[victims[-1]] + needed > limit
    by_digest = {layer.digest: layer for layer in layers}
    order = [need_of(by_digest[d], needs) for d in victims]
    assert order == sorted(order), "layers of lower need go first"
    for victim in victims_above_high_water(layers, used_bytes=used, needs=needs, budget=budget):
        assert need_of(by_digest[victim], needs) == Need.IDLE


def test_a_disk_evicts_prefetched_layers_and_a_prefetch_does_not() -> None:
    layers = held(40, 40, 10)
    needs = {digest(0): Need.PREFETCH, digest(1): Need.WANTED}

    def victims(needed_bytes: int, requester: Need) -> list[Digest]:
        return victims_for_budget(
            layers, used_bytes=90, needed_bytes=needed_bytes, needs=needs, budget=BUDGET, requester=requester
        )

    assert victims(50, Need.WANTED) == [digest(2), digest(0)]
    with pytest.raises(BudgetExceeded):
        victims(50, Need.PREFETCH)
    assert victims(15, Need.PREFETCH) == [digest(2)]


def test_pinned_and_linked_layers_are_never_evicted() -> None:
    layers = held(50, 50, links={0: 1})
    assert victims_freeing(layers, 1, {digest(1): Need.RUNNING}, below=Need.RUNNING) is None


@pytest.mark.parametrize(
    ("min_free", "reserve", "kept"), [(0, 5, 5), (3, 5, 5), (7, 5, 7)], ids=["unset", "below-the-reserve", "above"]
)
def test_the_reserve_is_kept_free_whatever_is_configured(min_free: int, reserve: int, kept: int) -> None:
    assert Budget(100, min_free_bytes=min_free, reserve_bytes=reserve).kept_free_bytes == kept


@given(layers, requests, st.integers(0, 12))
def test_layers_beyond_the_limit_are_idle_ones_alone(
    layers: list[HeldLayer], needs: dict[Digest, Need], limit: int
) -> None:
    victims = victims_beyond(layers, needs, limit)
    idle = [layer.digest for layer in layers if need_of(layer, needs) == Need.IDLE]
    assert set(victims) <= set(idle)
    assert len(victims) == min(len(idle), max(0, len(layers) - limit))
