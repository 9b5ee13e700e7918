"""Disk space of copies and of the layers made of them."""

from __future__ import annotations

import pytest

from kigi_cache.captures.space import CopySpace, copy_space, shortage_error, shortages, total_bytes


def test_a_copy_its_layer_and_both_laid_out_disks_are_counted() -> None:
    space = copy_space(allocated_bytes=10, chain_bytes=100, virtual_bytes=1000)
    assert space == CopySpace(kept_bytes=20, scratch_bytes=100 + 110)
    assert copy_space(allocated_bytes=10, chain_bytes=100, virtual_bytes=1000, copied=True).kept_bytes == 10


def test_no_disk_is_laid_out_larger_than_it_is() -> None:
    assert copy_space(allocated_bytes=500, chain_bytes=900, virtual_bytes=600).scratch_bytes == 1200


@pytest.mark.parametrize(("free", "short"), [(119, {"a": 1}), (120, {})])
def test_the_minimum_stays_free(free: int, short: dict[str, int]) -> None:
    assert shortages([("a", CopySpace(15, 5))], free_bytes=free, min_free_bytes=100) == short


def test_scratch_is_for_one_at_a_time_and_the_first_are_served_first() -> None:
    spaces = [("a", CopySpace(10, 50)), ("b", CopySpace(10, 50)), ("c", CopySpace(40, 0)), ("d", CopySpace(5, 60))]
    assert shortages(spaces, free_bytes=85, min_free_bytes=0) == {"c": 25}
    assert shortages(spaces, free_bytes=0, min_free_bytes=10).keys() == {"a", "b", "c", "d"}


def test_the_refusal_names_the_setting() -> None:
    assert "1.0 KiB more" in str(shortage_error(1024, 2048))
    assert "KIGI_MIN_FREE" in str(shortage_error(1024, 2048))


def test_what_all_take_together_has_the_largest_scratch_once() -> None:
    assert total_bytes([CopySpace(10, 50), CopySpace(5, 60)]) == 75
    assert total_bytes([]) == 0
