"""Whether the disk has room for copies, and when a publisher is taken for dead."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kigi.api.node_cache import CaptureOrder
from kigi_cache.captures import copies as captures
from kigi_cache.captures.copies import BEAT, SILENT_AFTER_S, Captures, is_silent
from kigi_cache.captures.space import Need, need_of, no_room, shortages, together
from kigi_cache.disks.volumes import Extent, Volumes


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


def test_what_all_take_together_has_the_largest_scratch_once() -> None:
    assert together([Need(10, 50), Need(5, 60)]) == 75
    assert together([]) == 0


@pytest.mark.parametrize(("idle_bytes", "state"), [(1000, "Possible"), (0, "Refused")])
async def test_what_nobody_needs_leaves_the_disk_for_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle_bytes: int, state: str
) -> None:
    free = 100
    asked: list[int] = []

    async def make_room(bytes_: int) -> None:
        nonlocal free
        asked.append(bytes_)
        free += idle_bytes

    monkeypatch.setattr(captures, "free_bytes", lambda path: free)
    volumes = SimpleNamespace(measure=lambda *_, **__: Extent(allocated_bytes=40, chain_bytes=100, layers=1))
    made = Captures(tmp_path, cast(Volumes, volumes), min_free_bytes=50, make_room=make_room)
    made.recover()
    (tmp_path / "captures" / BEAT).touch()
    order = CaptureOrder(
        id="c", volume="v", parent="sha256:" + "1" * 64, virtual_size_bytes=512, action="Check", mounted=False
    )
    await made.act([order])
    (report,) = made.reports()
    assert report.state == state
    assert asked == [80 + 100 + 140]
