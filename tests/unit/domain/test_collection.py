from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.collection import StoredObject, StoredVersion, Upload, layer_of, left_versions, plan_collection
from kigi.domain.layers import Digest, object_key

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


def stored(number: int, age: timedelta) -> StoredObject:
    return StoredObject(object_key(digest(number)), 100, NOW - age)


@pytest.mark.parametrize(
    ("age", "named", "goes"),
    [(2 * DAY, False, True), (DAY, False, True), (DAY - timedelta(seconds=1), False, False), (2 * DAY, True, False)],
)
def test_only_old_layers_that_no_tree_names_go(age: timedelta, named: bool, goes: bool) -> None:
    plan = plan_collection([stored(1, age)], [], {digest(1)} if named else set(), NOW, DAY)
    assert (len(plan.layers), plan.size_bytes) == ((1, 100) if goes else (0, 0))


def test_an_old_layer_with_an_upload_in_progress_is_kept() -> None:
    begun = Upload(object_key(digest(1)), "u", NOW - DAY / 2)
    given_up = Upload(object_key(digest(2)), "u", NOW - 2 * DAY)
    plan = plan_collection([stored(1, 2 * DAY), stored(2, 2 * DAY)], [begun, given_up], set(), NOW, DAY)
    assert [layer_of(item.key) for item in plan.layers] == [digest(2)]
    assert plan.uploads == (given_up,)
    assert plan.young == 1


@pytest.mark.parametrize(
    "key",
    [
        "layers/sha256/readme.txt",
        "layers/sha256/" + "A" * 64,
        "layers/sha256/" + "a" * 65,
        "other/" + "a" * 64,
        "a" * 64,
        "",
    ],
)
def test_what_is_no_layer_is_never_touched(key: str) -> None:
    old = NOW - 9 * DAY
    plan = plan_collection([StoredObject(key, 1, old)], [Upload(key, "u", old)], set(), NOW, DAY)
    assert (plan.layers, plan.uploads, plan.foreign) == ((), (), 1)


ages = st.integers(0, 72).map(lambda hours: timedelta(hours=hours))


@given(
    st.dictionaries(st.integers(0, 9), ages),
    st.dictionaries(st.integers(0, 9), ages),
    st.sets(st.integers(0, 9)),
    ages,
)
def test_nothing_goes_that_is_named_or_young_and_every_layer_is_accounted_for(
    objects: dict[int, timedelta], uploads: dict[int, timedelta], named: set[int], grace: timedelta
) -> None:
    plan = plan_collection(
        [stored(number, age) for number, age in objects.items()],
        [Upload(object_key(digest(number)), "u", NOW - age) for number, age in uploads.items()],
        {digest(number) for number in named},
        NOW,
        grace,
    )
    gone = {layer_of(item.key) for item in plan.layers}
    assert not gone & {digest(number) for number in named}
    assert all(NOW - item.modified >= grace for item in plan.layers)
    assert all(NOW - upload.started >= grace for upload in plan.uploads)
    assert len(plan.layers) + plan.named + plan.young == len(objects)


def version(number: int, age: timedelta, name: str = "v") -> StoredVersion:
    return StoredVersion(object_key(digest(number)), name, 100, NOW - age)


def test_versions_of_deleted_layers_go_and_no_others() -> None:
    old, marker = version(1, 2 * DAY), StoredVersion(object_key(digest(1)), "marker", 0, NOW - 9 * DAY, is_marker=True)
    there = [version(2, 9 * DAY), version(2, 8 * DAY, "replaced")]
    named, fresh = version(3, 9 * DAY), [version(4, 9 * DAY), version(4, DAY / 2, "marker")]
    foreign = StoredVersion("layers/sha256/readme", "v", 5, NOW - 9 * DAY)
    every = [marker, old, *there, named, *fresh, foreign]
    current = {there[0].key}
    assert left_versions(every, current, {digest(3)}, NOW, DAY) == (old, marker)
    doomed = {fresh[0].key}
    assert left_versions(every, current, {digest(3)}, NOW, DAY, doomed) == (old, marker, *fresh)
    assert left_versions(every, current | doomed, {digest(3)}, NOW, DAY, doomed) == (old, marker), "it is there again"
