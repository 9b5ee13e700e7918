"""The difference of two raw disks is found from the clusters that hold data."""

from __future__ import annotations

from pathlib import Path

import pytest

from kigi.publishing.layer_writer import CLUSTER, ZEROS, Difference, read_difference
from kigi.publishing.raw_disk import RawDisk, write_difference

A, B = b"a" * CLUSTER, b"b" * CLUSTER


def disk(path: Path, size_bytes: int, **clusters: bytes) -> Path:
    """A sparse file; ``c3=...``: content of cluster 3."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for name, content in clusters.items():
            file.seek(int(name[1:]) * CLUSTER)
            file.write(content)
    return path


def test_a_missing_disk_is_all_zeros() -> None:
    with RawDisk(None) as none:
        assert list(none.clusters()) == []
        assert none.read(7) == ZEROS


def test_an_empty_file_has_no_clusters(tmp_path: Path) -> None:
    with RawDisk(disk(tmp_path / "empty", 0)) as empty:
        assert list(empty.clusters()) == []


def test_clusters_with_data_are_among_those_that_are_named(tmp_path: Path) -> None:
    with RawDisk(disk(tmp_path / "disk", 100 * CLUSTER, c3=A, c90=B)) as found:
        clusters = set(found.clusters())
        assert {3, 90} <= clusters
        assert len(clusters) < 100
        assert [found.read(index) for index in (3, 4, 90)] == [A, ZEROS, B]


def test_the_last_cluster_is_filled_with_zeros(tmp_path: Path) -> None:
    with RawDisk(disk(tmp_path / "disk", CLUSTER + 512, c1=b"x" * 512)) as found:
        assert found.read(1) == (b"x" * 512).ljust(CLUSTER, b"\0")


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ({}, {}, Difference((), ())),
        ({}, {"c1": A}, Difference((1,), ())),
        ({"c1": A}, {"c1": A}, Difference((), ())),
        ({"c1": A}, {"c1": B}, Difference((1,), ())),
        ({"c1": A, "c5": B}, {"c5": B}, Difference((), (1,))),
        ({"c1": A}, {"c1": ZEROS, "c2": ZEROS}, Difference((), (1,))),
    ],
    ids=["equal-zeros", "new-data", "equal-data", "other-data", "hole", "written-zeros"],
)
def test_a_layer_holds_exactly_the_difference(
    tmp_path: Path, parent: dict[str, bytes], child: dict[str, bytes], expected: Difference
) -> None:
    before, after = disk(tmp_path / "a", 8 * CLUSTER, **parent), disk(tmp_path / "b", 8 * CLUSTER, **child)
    write_difference(after, before, tmp_path / "layer", 8 * CLUSTER, "parent.qcow2")
    assert read_difference(tmp_path / "layer") == expected


def test_data_of_a_larger_parent_beyond_the_end_is_ignored(tmp_path: Path) -> None:
    before, after = disk(tmp_path / "a", 8 * CLUSTER, c7=A), disk(tmp_path / "b", 4 * CLUSTER, c0=B)
    write_difference(after, before, tmp_path / "layer", 4 * CLUSTER, "parent.qcow2")
    assert read_difference(tmp_path / "layer") == Difference((0,), ())


def test_without_a_parent_the_layer_is_a_root(tmp_path: Path) -> None:
    write_difference(disk(tmp_path / "b", 4 * CLUSTER, c2=A), None, tmp_path / "layer", 4 * CLUSTER, None)
    assert read_difference(tmp_path / "layer") == Difference((2,), ())
