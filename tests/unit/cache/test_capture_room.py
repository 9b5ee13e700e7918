"""Whether the disk has room for copies, and when a publisher is taken for dead."""

from __future__ import annotations

import pytest

from kigi_cache.capture_room import Need, need_of, no_room, shortages
from kigi_cache.captures import SILENT_AFTER_S, is_silent


def test_a_copy_its_layer_and_both_laid_out_disks_are_counted() -> None:
    need = need_of(allocated_bytes=10, chain_bytes=100, virtual_bytes=1000)
    assert need == Need(kept_bytes=20, scratch_bytes=100 + 110)
    assert need_of(allocated_bytes=10, chain_bytes=100, virtual_bytes=1000, copied=True).kept_bytes == 10


def test_no_disk_is_laid_out_larger_than_it_is() -> None:
    assert need_of(allocated_bytes=500, chain_bytes=900, virtual_bytes=600).scratch_bytes == 1200


@pytest.mark.parametrize(("free", "short"), [(119, {"a": 1}), (120, {})])
def test_the_minimum_stays_free(free: int, short: dict[str, int]) -> None:
    assert shortages([("a", Need(15, 5))], free_bytes=free, min_free_bytes=100) == short


def test_scratch_is_for_one_at_a_time_and_the_first_are_served_first() -> None:
    needs = [("a", Need(10, 50)), ("b", Need(10, 50)), ("c", Need(40, 0)), ("d", Need(5, 60))]
    assert shortages(needs, free_bytes=85, min_free_bytes=0) == {"c": 25}
    assert shortages(needs, free_bytes=0, min_free_bytes=10).keys() == {"a", "b", "c", "d"}


def test_the_refusal_names_the_setting() -> None:
    assert "1.0 KiB more" in str(no_room(1024, 2048))
    assert "KIGI_MIN_FREE" in str(no_room(1024, 2048))


@pytest.mark.parametrize(
    ("beat", "since", "silent"),
    [(None, 0.0, True), (1000.0, 0.0, False), (1000.0 - SILENT_AFTER_S - 1, 0.0, True), (None, 990.0, False)],
)
def test_a_publisher_is_silent_when_it_let_somebody_wait(beat: float | None, since: float, silent: bool) -> None:
    assert is_silent(beat, since, 1000.0) == silent
