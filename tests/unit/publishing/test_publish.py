"""Making a layer writes no more than was estimated, and nothing where that does not fit."""

from __future__ import annotations

import struct
from collections import namedtuple
from pathlib import Path

import pytest

from kigi.errors import NoRoom, SpecInvalid
from kigi.publishing import publish
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.publish import estimate_bytes, make_layer
from kigi.publishing.source import inspect
from tests.support.chains import run
from tests.support.memory_repository import MemoryRepository

GIB = 2**30
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(tmp_path: Path) -> LayerFolder:
    return LayerFolder(tmp_path / "layers")


def bomb(path: Path) -> Path:
    """A file of 512 KiB with a disk of 16 GiB: each entry of the L1 table names one L2 table, which is full."""
    run("qemu-img", "create", "-q", "-f", "qcow2", str(path), str(16 * GIB))
    run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", str(path))
    with path.open("rb+") as file:
        data = file.read()
        (l1,) = struct.unpack_from(">Q", data, 40)
        (entry,) = struct.unpack_from(">Q", data, l1)
        l2 = entry & ~(1 << 63)
        file.seek(l2)
        file.write(data[l2 : l2 + 8] * 8192)
        file.seek(l1)
        file.write(data[l1 : l1 + 8] * 32)
    return path


async def test_a_small_file_of_a_large_disk_is_refused_before_anything_is_written(
    tmp_path: Path, folder: LayerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(GIB, 0, GIB))
    path = bomb(tmp_path / "bomb.qcow2")
    with pytest.raises(NoRoom, match="writes up to"):
        await make_layer(path, folder, MemoryRepository())  # type: ignore[arg-type]
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(("free", "kept", "fits"), [(GIB, 0, True), (GIB, GIB, False), (100_000, 0, False)])
async def test_space_that_must_stay_free_is_left_free(
    tmp_path: Path, folder: LayerFolder, monkeypatch: pytest.MonkeyPatch, free: int, kept: int, fits: bool
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(free, 0, free))
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 2**20)
    if fits:
        await make_layer(path, folder, MemoryRepository(), keep_free_bytes=kept)  # type: ignore[arg-type]
        return
    with pytest.raises(NoRoom):
        await make_layer(path, folder, MemoryRepository(), keep_free_bytes=kept)  # type: ignore[arg-type]
    assert list(folder.path.iterdir()) == []


async def test_the_estimate_counts_what_a_compressed_file_contains(tmp_path: Path) -> None:
    raw, packed = tmp_path / "disk.raw", tmp_path / "packed.qcow2"
    raw.write_bytes(b"x" * 2**23)
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(packed))
    assert packed.stat().st_size < 2**20
    assert await estimate_bytes(inspect(packed), []) >= 2 * 2**23


async def test_a_disk_that_no_layer_may_have_is_refused_before_its_tables_are_made(
    tmp_path: Path, folder: LayerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raw file with holes can be as long as the file system permits."""
    monkeypatch.setattr(publish, "MAX_VIRTUAL_BYTES", 2**30)
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(2**30 + 512)
    with pytest.raises(SpecInvalid, match="at most"):
        await make_layer(path, folder, MemoryRepository())  # type: ignore[arg-type]
