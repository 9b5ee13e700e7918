"""What a file system can do, on real ones: ext4 with and without fs-verity, and XFS, in files. Needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kigi_cache.node import features
from kigi_cache.node.features import FS_VERITY, HARD_LINKS, PROJECT_QUOTAS, REFLINK, node_facts

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-O", "^verity"],
    "ext4-verity": ["mkfs.ext4", "-q", "-O", "verity,quota,project"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "xfs-plain": ["mkfs.xfs", "-q", "-m", "reflink=0"],
}


@contextmanager
def mounted(folder: Path, name: str, options: str) -> Iterator[Path]:
    image, point = folder / "image", folder / "mounted"
    with image.open("wb") as file:
        file.truncate(512 * 2**20)
    subprocess.run([*MAKE[name], str(image)], check=True, capture_output=True)
    point.mkdir()
    done = subprocess.run(["mount", "-o", f"loop,{options}", str(image), str(point)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop mount here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


@pytest.mark.parametrize(
    ("name", "options", "kind", "expected"),
    [
        ("ext4", "rw", "ext4", {HARD_LINKS}),
        ("ext4-verity", "prjquota", "ext4", {HARD_LINKS, FS_VERITY, PROJECT_QUOTAS}),
        ("xfs", "rw", "xfs", {HARD_LINKS, REFLINK}),
        ("xfs", "prjquota", "xfs", {HARD_LINKS, REFLINK, PROJECT_QUOTAS}),
        ("xfs-plain", "rw", "xfs", {HARD_LINKS}),
    ],
)
def test_features_of_a_file_system(tmp_path: Path, name: str, options: str, kind: str, expected: set[str]) -> None:
    with mounted(tmp_path, name, options) as root:
        facts = node_facts(root)
        assert (facts.file_system, set(facts.features)) == (kind, expected)
        assert not (root / features.PROBE).exists()


def test_a_probe_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / features.PROBE / "other"
    left.mkdir(parents=True)
    (left / "moved").write_text("x")
    assert HARD_LINKS in node_facts(tmp_path).features
    assert list(tmp_path.iterdir()) == []


def test_the_mount_table_is_read_by_device_and_ignores_optional_fields(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = (
        "1 0 999:1 / /other rw - ext4 /dev/a rw,prjquota\n"
        f"2 0 {number} / / rw,noatime shared:1 master:2 - xfs /dev/b rw,pquota\n"
    )
    assert features._mounted_as(tmp_path, table) == ("xfs", frozenset({"rw", "pquota"}))
    assert features._mounted_as(tmp_path, "garbage\n") == ("", frozenset())
