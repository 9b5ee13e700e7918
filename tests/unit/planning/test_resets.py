"""A request gives each machine that it concerns one fresh disk, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kigi.domain.fingerprint import MAX_SEEN
from kigi.domain.resets import MAX_LIVE, ResetRequest
from kigi.planning.instance import plan_instance
from tests.support.worlds import World, deployment_spec


def settled(system: str = "a", **fields: object) -> World:
    w = World(deployment_spec(system, **{"replicas": 2, **fields}))
    w.settle()
    return w


def disks(w: World) -> dict[tuple[str, str], int]:
    return w.overlay_times()


def changed(w: World, before: dict[tuple[str, str], int]) -> set[tuple[str, str]]:
    after = disks(w)
    return {slot for slot in after if after[slot] != before.get(slot)}


@pytest.mark.parametrize(
    ("instances", "machines", "expected"),
    [
        ((), (), {("0", "db"), ("0", "web"), ("1", "db"), ("1", "web")}),
        (("1",), (), {("1", "db"), ("1", "web")}),
        ((), ("web",), {("0", "web"), ("1", "web")}),
        (("0",), ("db",), {("0", "db")}),
    ],
)
def test_a_request_resets_what_it_names_once(
    instances: tuple[str, ...], machines: tuple[str, ...], expected: set[tuple[str, str]]
) -> None:
    w = settled()
    before = disks(w)
    w.request(instances, machines)
    w.settle()
    w.check_settled()
    assert changed(w, before) == expected
    before = disks(w)
    w.settle()
    assert w.plan().steps == ()
    assert changed(w, before) == set()


def test_the_deletion_of_a_request_resets_nothing_before_and_after_its_end() -> None:
    w = settled()
    before = disks(w)
    w.request()
    w.requests.clear()
    w.settle()
    assert changed(w, before) == set()
    w.request()
    w.settle()
    before = disks(w)
    w.requests.clear()
    w.settle()
    assert changed(w, before) == set()


def test_machines_that_come_after_a_request_are_not_reset() -> None:
    w = settled()
    w.request()
    w.settle()
    w.change(replicas=3)
    w.settle()
    before = disks(w)
    w.settle()
    assert changed(w, before) == set()
    assert {volume.revision for volume in w.view("2").volumes} == {1}


def test_a_live_request_is_remembered_beyond_any_number_of_others() -> None:
    w = settled(replicas=1)
    first = w.request()
    w.settle()
    for number in range(MAX_SEEN + 4):
        w.change(resetToken=str(number))
        w.settle()
    assert all(first.mark in volume.fingerprint.seen for volume in w.view().volumes if volume.fingerprint)


def test_a_request_and_disks_of_the_same_second_reset_once() -> None:
    w = settled()
    before = disks(w)
    w.stand_still()
    w.request()
    w.settle()
    assert changed(w, before) == before.keys()
    w.request()
    w.change(replicas=3)
    w.settle()
    before = disks(w)
    w.settle()
    assert (changed(w, before), w.plan().steps) == (set(), ())


def test_many_requests_at_once_give_one_fresh_disk_and_a_bounded_record() -> None:
    w = settled(replicas=1)
    before = {volume.revision for volume in w.view().volumes}
    for _ in range(3 * MAX_LIVE):
        w.request()
    w.settle()
    assert {volume.revision for volume in w.view().volumes} == {revision + 1 for revision in before}
    longest = max(len(volume.fingerprint.seen) for volume in w.view().volumes if volume.fingerprint)
    assert longest <= MAX_LIVE + MAX_SEEN + 1


def test_a_request_is_carried_out_by_an_operator_that_finds_it_later() -> None:
    w = settled()
    before = disks(w)
    w.change(replicas=1)
    w.request(("0",))
    for step in w.plan().steps[:1]:
        w.apply(step)  # and the operator ends here
    w.settle()
    assert changed(w, before) == {("0", "db"), ("0", "web")}


def test_a_disk_of_a_predecessor_of_the_deployment_does_not_count() -> None:
    w = settled(replicas=1)
    request = w.request()
    w.settle()
    view = w.view()
    volumes = [replace(v, meta=replace(v.meta, created=request.created)) for v in view.volumes]
    other = replace(view, uid="other", deployment_uid="other", volumes=tuple(volumes))
    assert all(placed.is_new for placed in plan_instance(other).placed)


def test_a_request_takes_an_edit_that_waits_and_removes_machines_that_it_removed() -> None:
    w = settled("c")
    w.edit("c", "web", hardware={"memory": {"guest": "2Gi"}})
    w.edit_away("c", "extra")
    w.settle()
    assert w.older() == {("0", "web"), ("0", "extra"), ("1", "web"), ("1", "extra")}
    w.request(("0",))
    w.settle()
    w.check_settled()
    assert w.older() == {("1", "web"), ("1", "extra")}
    assert "dep-0-extra" not in w.vms


def test_a_request_from_the_future_resets_once() -> None:
    w = settled()
    w.request(created=w.view().now + timedelta(hours=1))
    w.settle()
    before = disks(w)
    w.settle()
    assert (changed(w, before), w.plan().steps) == (set(), ())


def test_a_plan_without_requests_is_the_same_object_for_object() -> None:
    w = settled()
    old = ResetRequest("old", "old", w.view().now - timedelta(days=1), "dep")
    assert plan_instance(replace(w.view(), resets=(old,))).placed == plan_instance(w.view()).placed
