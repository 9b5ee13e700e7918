"""Which layers leave the cache, and which never do."""

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
    free_up,
    keep_few,
    keep_low,
    make_room,
    need_of,
)
from kigi_cache.layers.token_bucket import Pace


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
    assert make_room(held(40, 40), used_bytes=80, needed_bytes=20, needs={}, budget=BUDGET) == []
    assert keep_low(held(45, 45), used_bytes=90, needs={}, budget=BUDGET) == []


def test_the_least_recently_needed_leave_first_and_no_more_than_must() -> None:
    assert make_room(held(40, 40, 10), used_bytes=90, needed_bytes=20, needs={}, budget=BUDGET) == [digest(0)]
    assert make_room(held(5, 40, 40), used_bytes=85, needed_bytes=30, needs={}, budget=BUDGET) == [
        digest(0),
        digest(1),
    ]


def test_layers_needed_at_the_same_time_leave_in_the_order_of_their_digests() -> None:
    layers = [HeldLayer(digest(number), 10) for number in (3, 1, 2)]
    assert [layer.digest for layer in evictable(layers, {}, below=Need.WANTED)] == [digest(1), digest(2), digest(3)]


def test_idle_layers_beyond_a_number_leave_however_small_they_are() -> None:
    layers = held(1, 1, 1, 1, links={0: 1})
    assert keep_few(layers, {digest(1): Need.WANTED, digest(2): Need.PREFETCH}, 1) == [digest(3)]
    assert keep_few(layers, {}, 2) == [digest(1), digest(2)]
    assert keep_few(layers, {}, 4) == []


def test_linked_and_wanted_layers_stay() -> None:
    layers = held(30, 30, 30, links={0: 1})
    assert make_room(layers, used_bytes=90, needed_bytes=20, needs={digest(1): Need.WANTED}, budget=BUDGET) == [
        digest(2)
    ]
    with pytest.raises(BudgetExceeded, match="KIGI_BUDGET_BYTES"):
        make_room(layers, used_bytes=90, needed_bytes=60, needs={digest(1): Need.WANTED}, budget=BUDGET)


def test_above_high_water_idle_layers_leave_down_to_low_water() -> None:
    assert keep_low(held(1, 5, 85), used_bytes=91, needs={}, budget=BUDGET) == [digest(0), digest(1), digest(2)]
    assert keep_low(held(20, 71), used_bytes=91, needs={}, budget=BUDGET) == [digest(0)]
    assert keep_low(held(20, 71, links={0: 1}), used_bytes=91, needs={digest(1): Need.WANTED}, budget=BUDGET) == []


layers = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2), st.floats(0, 9)), max_size=12).map(
    lambda rows: [HeldLayer(digest(n), size, links, when) for n, (size, links, when) in enumerate(rows)]
)


NEEDS = [Need.IDLE, Need.PREFETCH, Need.WANTED, Need.RUNNING]
wishes = st.dictionaries(st.integers(0, 11).map(digest), st.sampled_from(NEEDS))


@given(layers, wishes, st.integers(0, 200), st.integers(1, 300), st.sampled_from([Need.PREFETCH, Need.WANTED]))
def test_eviction_makes_the_room_or_touches_nothing(
    layers: list[HeldLayer], needs: dict[Digest, Need], needed: int, limit: int, asker: Need
) -> None:
    sizes = {layer.digest: layer.size_bytes for layer in layers}
    may_go = {layer.digest for layer in layers if need_of(layer, needs) < asker}
    used = sum(sizes.values())
    budget = Budget(limit)
    try:
        victims = make_room(layers, used_bytes=used, needed_bytes=needed, needs=needs, budget=budget, asker=asker)
    except BudgetExceeded:
        assert used + needed - sum(sizes[d] for d in may_go) > limit
        return
    assert set(victims) <= may_go
    assert len(set(victims)) == len(victims)
    left = used - sum(sizes[d] for d in victims)
    assert left + needed <= limit
    assert not victims or left + sizes[victims[-1]] + needed > limit
    by_digest = {layer.digest: layer for layer in layers}
    order = [need_of(by_digest[d], needs) for d in victims]
    assert order == sorted(order), "what is needed less leaves first"
    for victim in keep_low(layers, used_bytes=used, needs=needs, budget=budget):
        assert need_of(by_digest[victim], needs) == Need.IDLE


def test_a_disk_pushes_out_what_is_only_kept_warm_and_a_prefetch_does_not() -> None:
    layers = held(40, 40, 10)
    needs = {digest(0): Need.PREFETCH, digest(1): Need.WANTED}
    assert make_room(layers, used_bytes=90, needed_bytes=50, needs=needs, budget=BUDGET) == [digest(2), digest(0)]
    with pytest.raises(BudgetExceeded):
        make_room(layers, used_bytes=90, needed_bytes=50, needs=needs, budget=BUDGET, asker=Need.PREFETCH)
    room = make_room(layers, used_bytes=90, needed_bytes=15, needs=needs, budget=BUDGET, asker=Need.PREFETCH)
    assert room == [digest(2)]


def test_a_pinned_layer_and_one_that_a_volume_stands_on_never_leave() -> None:
    layers = held(50, 50, links={0: 1})
    assert free_up(layers, 1, {digest(1): Need.RUNNING}, below=Need.RUNNING) is None


def test_a_rate_is_kept_on_average_and_bursts_are_short() -> None:
    pace = Pace(100.0)
    assert pace.wait_s(100, 0.0) == 0.0
    assert pace.wait_s(50, 0.0) == pytest.approx(0.5)
    assert pace.wait_s(0, 0.5) == 0.0
    assert pace.wait_s(100, 100.0) == 0.0, "a pause saves up no more than one second"
    assert pace.wait_s(100, 100.0) == pytest.approx(1.0)
    assert Pace(0).wait_s(10**12, 0.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 3)), max_size=30))
def test_no_longer_time_has_more_than_its_share(steps: list[tuple[int, float]]) -> None:
    pace, now, taken = Pace(100.0), 0.0, 0
    for count, extra in steps:
        taken += count
        now += pace.wait_s(count, now) + extra
    assert taken <= 100.0 * (now + 1.0) + 1e-6
