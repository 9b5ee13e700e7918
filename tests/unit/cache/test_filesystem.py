"""Calls of the file system on what may lie at a path: files, directories, links and pipes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kigi_cache import filesystem
from kigi_cache.filesystem import allocate_behind, capacity_bytes, free_bytes, fsync, remove, write_durably


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


def test_directories_are_deleted_with_what_is_in_them_and_links_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"x")
    (tmp_path / "gone" / "below").mkdir(parents=True)
    (tmp_path / "gone" / "below" / "link").symlink_to(tmp_path / "kept")
    os.mkfifo(tmp_path / "gone" / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("gone", "link", "missing"):
        remove(tmp_path / name)
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(tmp_path / "kept") == ["file"]


@pytest.mark.parametrize("moment", ["open", "listdir", "scandir"])
def test_a_directory_that_becomes_a_link_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A process that may write in a directory which the daemon deletes puts links to others into it."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"x")
    inner = tmp_path / "gone" / "inner"
    inner.mkdir(parents=True)
    real, renamed = getattr(os, moment), []

    def swapped(path: object = ".", *args: object, **kwargs: object) -> object:
        if not renamed and (path == "inner" or path == inner or isinstance(path, int)):
            inner.rename(tmp_path / "away")
            inner.symlink_to(tmp_path / "kept")
            renamed.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, moment, swapped)
    with contextlib.suppress(OSError):
        remove(tmp_path / "gone")
    assert os.listdir(tmp_path / "kept") == ["file"]
    assert renamed or moment == "listdir"


def make_deep(directory: Path, levels: int) -> None:
    """Directories in directories, the last with a file and a link; longer than a path may be."""
    descriptor = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("level", dir_fd=descriptor)
        below = os.open("level", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.symlink(directory.parent / "kept", "link", dir_fd=descriptor)
    os.close(descriptor)


def test_directories_of_any_depth_are_deleted(tmp_path: Path) -> None:
    """A publisher's directory may be deeper than shutil.rmtree can follow; its space must become free all the same."""
    for name in ("gone", "kept"):
        (tmp_path / name).mkdir()
    (tmp_path / "kept" / "file").touch()
    make_deep(tmp_path / "gone", 1100)
    remove(tmp_path / "gone")
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(tmp_path / "kept") == ["file"]


@pytest.mark.parametrize(("failure", "number"), [("false", errno.EIO), ("sleep 9", errno.ETIMEDOUT)])
def test_a_deletion_that_fails_is_an_error_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, number: int
) -> None:
    real = subprocess.run

    def instead(command: list[str], **options: Any) -> Any:
        return real(failure.split(), **{**options, "timeout": 0.05 if "sleep" in failure else 10})

    monkeypatch.setattr(filesystem.subprocess, "run", instead)
    (tmp_path / "deep").mkdir()
    make_deep(tmp_path / "deep", 1100)
    with pytest.raises(OSError, match="not deleted") as refused:
        remove(tmp_path / "deep")
    assert refused.value.errno == number
    monkeypatch.undo()
    remove(tmp_path / "deep")


def test_blocks_are_allocated_behind_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    for _ in range(2):
        with path.open("r+b") as file:
            allocate_behind(file.fileno(), 2**20)
    assert path.stat().st_size == 100
    assert 2**20 <= path.stat().st_blocks * 512 < 2**20 + 2**16
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file"):
        allocate_behind(file.fileno(), 2**20)


def test_a_durable_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for text in ("a long first text", "b"):
        write_durably(path, text)
        assert path.read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]
