"""Which overlay gets how much space in advance, and which one fills the disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kigi_cache.disks.headroom import (
    FLOOR_BYTES,
    OverlaySize,
    Reservation,
    describe_growth,
    machine_of,
    overlays_to_stop,
    plan_headroom,
    written_step,
)

MIB = 2**20
GIB = 2**30
A, B = "kigi.range.office.1.mail1.r3.0a1b2c3d", "kigi.range.office.2.dns1.r1.data.0a1b2c3d"


def overlay(handle: str, grown: int = 0, size: int = MIB, virtual: int = 10 * GIB) -> OverlaySize:
    return OverlaySize(handle, size, virtual, grown)


def test_each_overlay_gets_its_headroom_while_there_is_space() -> None:
    planned = plan_headroom([overlay("b"), overlay("a")], free_bytes=GIB, headroom_bytes=256 * MIB)
    assert planned == [Reservation("a", 256 * MIB), Reservation("b", 256 * MIB)]


def test_the_one_that_writes_most_is_the_last_to_get_any() -> None:
    noisy, quiet = overlay("a", grown=GIB), overlay("b", grown=MIB)
    planned = plan_headroom([noisy, quiet], free_bytes=FLOOR_BYTES + 300 * MIB, headroom_bytes=256 * MIB)
    assert planned == [Reservation("b", 256 * MIB)]


def test_no_overlay_gets_more_than_its_disk_can_need() -> None:
    small = overlay("a", size=100 * MIB, virtual=100 * MIB)
    (planned,) = plan_headroom([small], free_bytes=GIB, headroom_bytes=256 * MIB)
    assert planned.size_bytes == small.limit_bytes - small.size_bytes < 20 * MIB
    full = overlay("a", size=small.limit_bytes, virtual=100 * MIB)
    assert plan_headroom([full], free_bytes=GIB, headroom_bytes=256 * MIB) == []


def test_without_headroom_nothing_is_allocated() -> None:
    assert plan_headroom([overlay("a")], free_bytes=GIB, headroom_bytes=0) == []


@given(
    st.lists(st.tuples(st.integers(0, GIB), st.integers(0, 4 * GIB)), max_size=8),
    st.integers(0, 8 * GIB),
    st.integers(0, GIB),
)
def test_the_floor_stays_free(sizes: list[tuple[int, int]], free_bytes: int, headroom_bytes: int) -> None:
    overlays = [overlay(str(n), grown, size) for n, (grown, size) in enumerate(sizes)]
    planned = plan_headroom(overlays, free_bytes=free_bytes, headroom_bytes=headroom_bytes)
    assert sum(each.size_bytes for each in planned) <= max(0, free_bytes - FLOOR_BYTES)
    assert all(0 < each.size_bytes <= headroom_bytes for each in planned)


def stopped(*overlays: OverlaySize, free_bytes: int = 0, warn_below_bytes: int = GIB) -> list[str]:
    return overlays_to_stop(overlays, free_bytes=free_bytes, warn_below_bytes=warn_below_bytes)


def test_machines_that_write_and_have_more_than_their_share_are_stopped_the_largest_first() -> None:
    quiet, large, larger = overlay("quiet", size=GIB), overlay("a", GIB, 5 * GIB), overlay("b", GIB, 6 * GIB)
    assert stopped(quiet, large, larger) == ["b", "a"]
    assert stopped(quiet, large, larger, free_bytes=GIB) == []


def test_a_machine_that_has_little_may_write_and_one_that_has_much_may_be_quiet() -> None:
    small, silent = overlay("small", grown=900 * MIB, size=GIB), overlay("silent", grown=MIB, size=9 * GIB)
    assert stopped(small, silent) == []


def test_machines_that_fill_the_disk_together_are_all_stopped() -> None:
    assert stopped(*(overlay(str(n), GIB, GIB) for n in range(4))) == ["0", "1", "2", "3"]
    assert stopped() == []


@given(st.lists(st.tuples(st.integers(0, GIB), st.integers(0, 4 * GIB)), max_size=8), st.integers(0, GIB))
def test_a_machine_is_stopped_only_if_it_has_half_of_an_equal_share(sizes: list[tuple[int, int]], free: int) -> None:
    overlays = [overlay(str(n), grown, size) for n, (grown, size) in enumerate(sizes)]
    found = stopped(*overlays, free_bytes=free, warn_below_bytes=2 * GIB)
    half = (sum(each.size_bytes for each in overlays) + free) // max(1, len(overlays)) // 2
    assert all(each.size_bytes > half and each.grown_bytes for each in overlays if each.handle in found)


def test_the_machines_that_fill_the_disk_are_named_with_the_remedy() -> None:
    text = describe_growth([overlay(B, MIB), overlay(A, 3 * GIB)], free_bytes=MIB, warn_below_bytes=GIB)
    assert "machine mail1 of instance office-1 in namespace range (3.0 GiB), machine dns1 of instance office-2" in text
    assert "reset or stop the first one" in text


def test_only_the_first_few_are_named() -> None:
    many = [overlay(f"v{n}", grown=MIB * (n + 1)) for n in range(6)]
    text = describe_growth(many, free_bytes=0, warn_below_bytes=GIB)
    assert "v5 (" in text
    assert "v2 (" not in text
    assert "and 3 more" in text


def test_nothing_is_said_while_there_is_space_or_no_machine_writes() -> None:
    assert describe_growth([overlay(A, GIB)], free_bytes=GIB, warn_below_bytes=GIB) == ""
    assert describe_growth([overlay(A)], free_bytes=0, warn_below_bytes=GIB) == ""


def test_a_handle_of_another_form_stands_for_itself() -> None:
    assert machine_of("x.y") == "x.y"


@given(st.integers(MIB, 2**50))
def test_written_bytes_are_rounded_up_by_a_quarter_at_most(size: int) -> None:
    assert size <= written_step(size) <= size * 5 / 4
    assert written_step(written_step(size)) == written_step(size)


def test_a_growing_overlay_is_reported_four_times_per_doubling() -> None:
    """Each report is a write to the API server."""
    assert len({written_step(size) for size in range(GIB, 2 * GIB, MIB)}) == 5
    assert [written_step(size) for size in (0, 400 * 2**10, MIB - 1)] == [0, 0, 0], "tables alone"
