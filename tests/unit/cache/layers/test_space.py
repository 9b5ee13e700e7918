"""Making space on a fake store: what is evicted, and what is refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import cast

import pytest

from kigi.domain.layers import Digest, Layer
from kigi.errors import BudgetExceeded, DiskPressure, KigiError, NoRoom, PrefetchWaits
from kigi_cache.layers.eviction import Budget, HeldLayer, Need
from kigi_cache.layers.space import Space, check_free
from kigi_cache.layers.store import Store


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def layer(number: int, size_bytes: int = 10) -> Layer:
    return Layer(digest(number), size_bytes, 512)


@dataclass
class Disk:
    """In the place of a store: a file system of ``capacity`` bytes, which others fill too."""

    capacity: int = 1000
    others: int = 0
    quarantined: int = 0
    layers: dict[Digest, HeldLayer] = field(default_factory=dict)
    parts: dict[Digest, int] = field(default_factory=dict)
    evicted: list[Digest] = field(default_factory=list)

    def hold(self, number: int, size_bytes: int = 10, links: int = 0) -> Digest:
        """One more layer, needed later than those before it."""
        made = HeldLayer(digest(number), size_bytes, links, float(len(self.layers)))
        self.layers[made.digest] = made
        return made.digest

    def held(self) -> dict[Digest, HeldLayer]:
        return dict(self.layers)

    def free_bytes(self) -> int:
        used = sum(layer.size_bytes for layer in self.layers.values())
        return self.capacity - self.others - self.quarantined - used - sum(self.parts.values())

    def part_bytes(self, digest: Digest) -> int:
        return self.parts.get(digest, 0)

    def empty_quarantine(self) -> None:
        self.quarantined = 0

    def evict(self, digest: Digest, wanted: Collection[Digest]) -> bool:
        if digest in wanted or self.layers[digest].links:
            return False
        del self.layers[digest]
        self.evicted.append(digest)
        return True


@dataclass
class World:
    disk: Disk
    budget: Budget
    needs: dict[Digest, Need] = field(default_factory=dict)
    changes: int = 0

    def __post_init__(self) -> None:
        self.space = Space(cast(Store, self.disk), self.budget, lambda: self.needs, self.note)

    def note(self) -> None:
        self.changes += 1


def world(limit: int = 100, kept: int = 100, **disk: int) -> World:
    return World(Disk(**disk), Budget(limit, min_free_bytes=kept, reserve_bytes=50))


async def test_a_layer_that_fits_evicts_nothing() -> None:
    made = world()
    made.disk.hold(1)
    await made.space.reserve(layer(2), Need.WANTED)
    assert (made.disk.evicted, made.changes) == ([], 0)


async def test_a_disk_evicts_idle_and_prefetched_layers_for_the_budget() -> None:
    made = world(limit=30)
    idle, prefetched, wanted = (made.disk.hold(number) for number in (1, 2, 3))
    made.needs = {prefetched: Need.PREFETCH, wanted: Need.WANTED}
    await made.space.reserve(layer(4, 20), Need.WANTED)
    assert (made.disk.evicted, made.changes) == ([idle, prefetched], 2)


async def test_reservations_count_until_they_are_released() -> None:
    made = world(limit=30)
    await made.space.reserve(layer(1), Need.WANTED)
    await made.space.reserve(layer(2), Need.WANTED)
    with pytest.raises(BudgetExceeded):
        await made.space.reserve(layer(3, 11), Need.WANTED)
    made.space.release(digest(1))
    made.space.release(digest(9))
    await made.space.reserve(layer(3, 11), Need.WANTED)


async def test_a_prefetch_that_may_fit_later_waits_and_one_that_never_will_is_refused() -> None:
    made = world(limit=30)
    made.needs = {made.disk.hold(1, 25): Need.WANTED}
    with pytest.raises(PrefetchWaits, match="prefetched when there is space"):
        await made.space.reserve(layer(2), Need.PREFETCH)
    with pytest.raises(BudgetExceeded):
        await made.space.reserve(layer(3, 31), Need.PREFETCH)


async def test_a_full_file_system_evicts_before_it_refuses() -> None:
    made = world(limit=1000, capacity=200, others=70)
    idle = made.disk.hold(1, 25)
    await made.space.reserve(layer(2, 30), Need.WANTED)
    assert made.disk.evicted == [idle]


async def test_nothing_is_evicted_in_vain() -> None:
    made = world(limit=1000, capacity=200, others=70)
    made.disk.hold(1, 25)
    with pytest.raises(DiskPressure):
        await made.space.reserve(layer(2, 31), Need.WANTED)
    assert made.disk.evicted == []


async def test_quarantined_files_go_before_any_layer() -> None:
    made = world(limit=1000, capacity=200, others=30, quarantined=30)
    made.disk.hold(1, 30)
    assert await made.space.free(40, Need.WANTED) == 140
    assert (made.disk.quarantined, made.disk.evicted) == (0, [])


async def test_bytes_of_an_earlier_attempt_need_no_space_again() -> None:
    made = world(limit=1000, capacity=200, others=60)
    made.disk.parts[digest(1)] = 35
    await made.space.reserve(layer(1, 40), Need.WANTED)
    with pytest.raises(DiskPressure):
        await made.space.reserve(layer(2, 40), Need.WANTED)


async def test_a_request_of_the_same_need_evicts_nothing() -> None:
    made = world(limit=1000, capacity=200, others=70)
    made.needs = {made.disk.hold(1, 25): Need.PREFETCH}
    assert await made.space.free(30, Need.PREFETCH) == 105
    assert made.disk.evicted == []


async def test_under_pressure_idle_layers_go_first_and_wanted_ones_stay() -> None:
    made = world(limit=1000, capacity=200, others=75)
    idle, prefetched, wanted = (made.disk.hold(number) for number in (1, 2, 3))
    made.needs = {prefetched: Need.PREFETCH, wanted: Need.WANTED}
    await made.space.relieve_pressure()
    assert made.disk.evicted == [idle]
    made.disk.others = 500
    await made.space.relieve_pressure()
    assert made.disk.evicted == [idle, prefetched], "all that may go, although it is not enough"


async def test_without_pressure_nothing_is_touched() -> None:
    made = world(quarantined=10)
    made.disk.hold(1)
    await made.space.relieve_pressure()
    assert (made.disk.evicted, made.disk.quarantined) == ([], 10)


async def test_idle_layers_above_high_water_are_evicted() -> None:
    made = world(limit=100)
    first, second = made.disk.hold(1, 15), made.disk.hold(2, 80)
    made.needs = {second: Need.WANTED}
    await made.space.evict_idle()
    assert made.disk.evicted == [first]


async def test_a_request_that_arrives_meanwhile_saves_a_layer() -> None:
    made = world(limit=30)
    first, second = made.disk.hold(1), made.disk.hold(2)
    made.needs = {}

    def requested(digest: Digest, wanted: Collection[Digest]) -> bool:
        made.needs = {second: Need.WANTED}
        return Disk.evict(made.disk, digest, wanted)

    made.disk.evict = requested  # type: ignore[method-assign]
    await made.space.reserve(layer(3, 30), Need.WANTED)
    assert made.disk.evicted == [first]


@pytest.mark.parametrize(
    ("missing", "free", "error"),
    [
        pytest.param(50, 100, None, id="just-fits"),
        pytest.param(51, 100, DiskPressure, id="kubelet-would-evict"),
        pytest.param(71, 100, NoRoom, id="reserve"),
        pytest.param(0, 49, DiskPressure, id="nothing-missing-under-pressure"),
    ],
)
def test_space_that_stays_free(missing: int, free: int, error: type[KigiError] | None) -> None:
    budget = Budget(1000, min_free_bytes=50, reserve_bytes=30)
    if error is None:
        check_free(digest(1), missing, free, budget)
        return
    with pytest.raises(error, match=f"{free} B free on the cache's disk") as refused:
        check_free(digest(1), missing, free, budget)
    assert type(refused.value) is error
    assert ("KIGI_MIN_FREE" in str(refused.value)) is (error is DiskPressure)
