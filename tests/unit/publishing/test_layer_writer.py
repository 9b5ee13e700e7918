import random
import struct
import subprocess
import tracemalloc
from pathlib import Path

import pytest

from kigi.publishing.layer_writer import (
    CLUSTER,
    ZEROS,
    Difference,
    compare,
    is_canonical,
    layer_bytes,
    read_difference,
    write_layer,
)


def disk(seed: int, clusters: int) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(CLUSTER) if source.random() < 0.5 else ZEROS for _ in range(clusters)]


def write(path: Path, now: list[bytes], parent: list[bytes] | None, backing: str | None) -> Difference:
    size = len(now) * CLUSTER
    below = parent or [ZEROS] * len(now)
    found = compare(size, range(len(now)), now.__getitem__, below.__getitem__)
    write_layer(path, size, backing, found, now.__getitem__)
    assert read_difference(path) == found
    assert path.stat().st_size == layer_bytes(size, found)
    return found


def test_only_changed_clusters_are_named_and_new_zeros_apart():
    data = b"x" * CLUSTER
    parent, child = [data, data, ZEROS, data], [data, ZEROS, data, data[:-1] + b"y"]
    found = compare(4 * CLUSTER, range(4), child.__getitem__, parent.__getitem__)
    assert found == Difference(data=(2, 3), zero=(1,))


def test_a_candidate_behind_the_end_is_refused():
    with pytest.raises(ValueError, match="behind the disk's end"):
        compare(CLUSTER, [1], lambda _: ZEROS, lambda _: ZEROS)


def test_a_size_that_is_not_whole_sectors_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="multiple of 512"):
        write_layer(tmp_path / "x.qcow2", CLUSTER + 511, None, Difference((), ()), lambda _: ZEROS)


def test_qemu_reads_a_chain_of_three_layers_as_it_was_written(tmp_path: Path):
    disks = [disk(seed, 40) for seed in (1, 2, 3)]
    names = ["a.qcow2", "b.qcow2", "c.qcow2"]
    for number, now in enumerate(disks):
        write(
            tmp_path / names[number],
            now,
            disks[number - 1] if number else None,
            names[number - 1] if number else None,
        )
        subprocess.run(["qemu-img", "check", "-q", tmp_path / names[number]], check=True)
        raw = tmp_path / "raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", tmp_path / names[number], raw], check=True)
        assert raw.read_bytes() == b"".join(now)


def test_a_large_sparse_disk_needs_several_tables_and_stays_consistent(tmp_path: Path):
    size = 4 << 30
    path = tmp_path / "large.qcow2"
    data = b"z" * CLUSTER
    found = Difference(data=(0, 9000, 65535), zero=(30000,))
    write_layer(path, size, None, found, lambda _: data)
    assert read_difference(path) == found
    subprocess.run(["qemu-img", "check", "-q", path], check=True)


def test_equal_contents_give_equal_files(tmp_path: Path):
    now = disk(7, 12)
    write(tmp_path / "one", now, None, None)
    write(tmp_path / "two", now, None, None)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_only_a_file_without_hidden_clusters_is_canonical(tmp_path: Path):
    path = tmp_path / "x.qcow2"
    size = 12 * CLUSTER
    write(path, disk(7, 12), None, None)
    content = path.read_bytes()
    assert is_canonical(path, size)
    changes = {
        "appended": content + b"x",
        "cut": content[:-1],
        "no tables": content[:CLUSTER],
        "header only": content[:80],
        "refcount": content[: 2 * CLUSTER + 1] + b"\2" + content[2 * CLUSTER + 2 :],
        "data behind the header": content + content[-CLUSTER:],
        "another place": content[: 4 * CLUSTER] + content[4 * CLUSTER :].replace(b"\0\5\0\0", b"\0\6\0\0", 1),
        "far away": content[: 3 * CLUSTER] + b"\x7f" + content[3 * CLUSTER + 1 :],
    }
    for what, changed in changes.items():
        assert changed != content, what
        path.write_bytes(changed)
        assert not is_canonical(path, size), what


def put(path: Path, offset: int, entries: list[int]) -> None:
    with path.open("rb+") as file:
        file.seek(offset)
        file.write(struct.pack(f">{len(entries)}Q", *entries))


@pytest.mark.parametrize("hostile", ["one table many times", "one cluster many times", "tables in a hole"])
def test_a_small_file_that_describes_a_large_disk_takes_no_memory(tmp_path: Path, hostile: str) -> None:
    """Read in full, the first one would list 2^30 clusters."""
    path, entries = tmp_path / "bomb.qcow2", CLUSTER // 8
    size = 64 * 2**40
    difference = Difference(data=(0,), zero=())
    write_layer(path, size, None, difference, lambda index: b"x" * CLUSTER)
    l1 = struct.unpack(">Q", path.read_bytes()[40:48])[0]
    l2 = struct.unpack(">Q", path.read_bytes()[l1 : l1 + 8])[0] & ~(1 << 63)
    if hostile == "one table many times":
        put(path, l2, [1] * entries)
        put(path, l1, [l2] * (size // CLUSTER // entries))
    elif hostile == "one cluster many times":
        put(path, l2, [l2 + CLUSTER] * entries)
    else:
        put(path, l1, [l2 + n * CLUSTER for n in range(size // CLUSTER // entries)])
        with path.open("rb+") as file:
            file.truncate(2**35)
    tracemalloc.start()
    assert not is_canonical(path, size)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 50 * 2**20
