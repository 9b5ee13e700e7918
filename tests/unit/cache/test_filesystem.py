"""Calls of the file system on what may lie at a path: files, directories, links and pipes."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from kigi_cache.filesystem import capacity_bytes, free_bytes, fsync


def test_files_and_directories_are_made_durable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    fsync(tmp_path / "file")
    fsync(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="link") as refused:
        fsync(tmp_path / "link")
    assert refused.value.errno == errno.ELOOP


@pytest.mark.timeout(10)
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        fsync(tmp_path / "pipe")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fsync(tmp_path / "missing")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        fsync(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_capacity_and_free_space_are_those_of_the_file_system(tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    assert capacity_bytes(tmp_path) == usage.total
    assert 0 < free_bytes(tmp_path) <= capacity_bytes(tmp_path)
    assert abs(free_bytes(tmp_path) - usage.free) < usage.total // 10
