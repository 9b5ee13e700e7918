"""Tables of overlays that QEMU wrote, and tables that describe more than the file has."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from kigi.domain.qcow2 import CLUSTER_BYTES, HEADER_BYTES, Qcow2Header, parse_header
from kigi.errors import LayerRefused
from kigi.publishing.overlay_tables import SLACK_BYTES, check_tables

VIRTUAL_BYTES = 2**30


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """An overlay without a backing file, with three written clusters."""
    path = tmp_path / "o.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(VIRTUAL_BYTES)], check=True)
    commands = [f"write -P 7 {offset} 64k" for offset in (0, 2**20, 2**29 + 2**20)] + ["write -z 4M 64k"]
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", *arguments, path], check=True, stdout=subprocess.DEVNULL)
    return path


def header_of(path: Path) -> Qcow2Header:
    with path.open("rb") as file:
        return parse_header(file.read(HEADER_BYTES))


def read_number(path: Path, offset: int) -> int:
    with path.open("rb") as file:
        file.seek(offset)
        return int(struct.unpack(">Q", file.read(8))[0])


def write(path: Path, offset: int, *numbers: int) -> None:
    with path.open("rb+") as file:
        file.seek(offset)
        file.write(struct.pack(f">{len(numbers)}Q", *numbers))


def l2_of(path: Path, index: int = 0) -> int:
    return read_number(path, header_of(path).l1_offset + 8 * index) & 0x00FFFFFFFFFFFE00


def test_what_qemu_wrote_is_accepted_and_counted(overlay: Path) -> None:
    assert check_tables(overlay) == 3 * CLUSTER_BYTES


def test_an_overlay_that_nothing_was_written_to_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "o.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(VIRTUAL_BYTES)], check=True)
    assert check_tables(path) == 0


def test_entries_that_all_name_one_cluster_are_refused(overlay: Path) -> None:
    data = read_number(overlay, l2_of(overlay))
    write(overlay, l2_of(overlay), *[data] * (CLUSTER_BYTES // 8))
    with pytest.raises(LayerRefused, match="two users"):
        check_tables(overlay)


def test_l1_entries_that_name_one_table_are_refused(overlay: Path) -> None:
    header = header_of(overlay)
    write(overlay, header.l1_offset, *[read_number(overlay, header.l1_offset)] * header.l1_entries)
    with pytest.raises(LayerRefused, match="two users"):
        check_tables(overlay)


def test_a_table_that_is_data_too_is_refused(overlay: Path) -> None:
    write(overlay, l2_of(overlay), l2_of(overlay))
    with pytest.raises(LayerRefused, match="two users"):
        check_tables(overlay)


@pytest.mark.parametrize("entry", [2**40, 2**55, 512, CLUSTER_BYTES + 512])
def test_clusters_beyond_the_end_or_between_two_are_refused(overlay: Path, entry: int) -> None:
    write(overlay, l2_of(overlay) + 8 * 100, entry)
    with pytest.raises(LayerRefused, match="name a cluster at"):
        check_tables(overlay)


def test_a_compressed_cluster_is_refused(overlay: Path) -> None:
    write(overlay, l2_of(overlay) + 8 * 100, 1 << 62 | CLUSTER_BYTES)
    with pytest.raises(LayerRefused, match="compressed"):
        check_tables(overlay)


def test_a_table_behind_the_end_of_the_file_is_refused(overlay: Path) -> None:
    end = overlay.stat().st_size // CLUSTER_BYTES * CLUSTER_BYTES
    with overlay.open("rb+") as file:
        file.truncate(end + 512)
    write(overlay, header_of(overlay).l1_offset, end)
    with pytest.raises(LayerRefused, match="beyond its end"):
        check_tables(overlay)


def test_a_hole_that_costs_nothing_takes_no_memory(overlay: Path) -> None:
    """A bitmap of 16 TiB has 32 MiB; XFS has files of 8 EiB."""
    with overlay.open("rb+") as file:
        file.truncate(2 * VIRTUAL_BYTES + SLACK_BYTES)
        assert check_tables(overlay) == 3 * CLUSTER_BYTES
        file.truncate(2 * VIRTUAL_BYTES + SLACK_BYTES + 1)
    with pytest.raises(LayerRefused, match="bytes for a disk of"):
        check_tables(overlay)


def test_a_table_where_no_file_system_can_seek_is_refused(overlay: Path) -> None:
    with overlay.open("rb+") as file:
        file.seek(40)
        file.write(struct.pack(">Q", 2**55))
    with pytest.raises(LayerRefused, match="beyond its end"):
        check_tables(overlay)
