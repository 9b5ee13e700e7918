"""A source is accepted only if every file that QEMU would open for it may be read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kigi.domain.qcow2 import CLUSTER_BYTES, EXTENSION_BACKING_FORMAT, MAX_VIRTUAL_BYTES
from kigi.errors import SpecInvalid
from kigi.publishing.layer_writer import Difference, write_layer
from kigi.publishing.qcow2_source import backing_file_name
from kigi.publishing.source import MAX_BACKING_FILES, MAX_SHOWN, inspect
from kigi.publishing.vmdk_source import refuse_several_files

PATH = Path("disk.qcow2")
OFFSETS = {"encryption": 32, "virtual_size": 24, "snapshots": 60, "features": 72}


def qcow2(
    backing: bytes | None = None,
    *,
    version: int = 3,
    backing_format: bytes | None = None,
    name_length: int | None = None,
    **fields: int,
) -> bytes:
    """The first cluster of a qcow2 file with a disk of 1 MiB; ``fields`` replace those in OFFSETS."""
    header_length = 104 if version >= 3 else 72
    extensions = b""
    if backing_format is not None:
        padded = backing_format.ljust(-(-len(backing_format) // 8) * 8, b"\0")
        extensions += struct.pack(">II", 0x6803F857, 3) + b"abc".ljust(8, b"\0")
        extensions += struct.pack(">II", EXTENSION_BACKING_FORMAT, len(backing_format)) + padded
    extensions += bytes(8)
    offset = header_length + len(extensions) if backing is not None else 0
    length = name_length if name_length is not None else len(backing or b"")
    head = bytearray(header_length)
    struct.pack_into(">4sIQII", head, 0, b"QFI\xfb", version, offset, length, 16)
    struct.pack_into(">Q", head, OFFSETS["virtual_size"], 2**20)
    if version >= 3:
        struct.pack_into(">I", head, 100, header_length)
    for name, value in fields.items():
        struct.pack_into(">Q" if name in ("virtual_size", "features") else ">I", head, OFFSETS[name], value)
    return (bytes(head) + extensions + (backing or b"")).ljust(CLUSTER_BYTES, b"\0")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("name", "backing_format"),
    [(None, None), (b"base.qcow2", None), (b"base.qcow2", b"qcow2"), (b"./a:b/c", b"qcow2"), (b"a/b:c", None)],
)
def test_the_backing_file_is_a_plain_name(version: int, name: bytes | None, backing_format: bytes | None) -> None:
    found = backing_file_name(PATH, qcow2(name, version=version, backing_format=backing_format))
    assert found == (name.decode() if name is not None else None)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("name", "backing_format", "words"),
    [
        (b"nbd://127.0.0.1", b"qcow2", "not a plain file name"),
        (b"json:{}", None, "not a plain file name"),
        (b"base\0.qcow2", None, "not a plain file name"),
        (b"base.raw", b"raw", "declared as b'raw'"),
        (b"base.vmdk", b"vmdk", "declared as b'vmdk'"),
    ],
)
def test_another_kind_of_backing_file_is_refused(
    version: int, name: bytes, backing_format: bytes | None, words: str
) -> None:
    with pytest.raises(SpecInvalid, match=words):
        backing_file_name(PATH, qcow2(name, version=version, backing_format=backing_format))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "not a qcow2 file"),
        (b"QFI\xfb", "not a qcow2 file"),
        (bytes(CLUSTER_BYTES), "not a qcow2 file"),
        (qcow2(encryption=1), "encrypted"),
        (qcow2(snapshots=1), "internal snapshots"),
        (qcow2(features=1 << 2), "data in another file"),
        (qcow2(virtual_size=MAX_VIRTUAL_BYTES + 512), "at most"),
        (qcow2(b"base", name_length=0), "outside its header"),
        (qcow2(b"base", name_length=1024), "outside its header"),
        (qcow2(b"b" * 900)[:200], "outside its header"),
    ],
)
def test_a_header_with_more_than_plain_files_is_refused(head: bytes, words: str) -> None:
    with pytest.raises(SpecInvalid, match=words):
        backing_file_name(PATH, head)


@pytest.mark.parametrize("length", range(72, 140))
def test_a_cut_header_is_never_read_beyond_its_end(length: int) -> None:
    with pytest.raises(SpecInvalid, match="outside its header"):
        backing_file_name(PATH, qcow2(b"base", backing_format=b"qcow2")[:length])


def place(folder: Path, **files: bytes | None) -> Path:
    """Files NAME=backing name, each a qcow2 file; the path of the last."""
    for name, backing in files.items():
        (folder / name).write_bytes(qcow2(backing))
    return folder / name


def test_the_chain_is_nearest_first(tmp_path: Path) -> None:
    path = place(tmp_path, base=None, middle=b"base", top=b"./middle")
    assert inspect(path).backing == (tmp_path / "middle", tmp_path / "base")


def test_a_backing_file_elsewhere_needs_its_folder_to_be_named(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    place(other, base=None)
    path = place(ours, top=b"../other/base")
    with pytest.raises(SpecInvalid, match=r"outside the image's folder.*--backing-dir"):
        inspect(path)
    assert [file.resolve() for file in inspect(path, backing_dirs=[other]).backing] == [other / "base"]


def test_a_link_counts_where_it_points_and_qemu_continues_beside_the_link(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    place(other, middle=b"base", base=None)
    (ours / "middle").symlink_to(other / "middle")
    path = place(ours, base=None, top=b"middle")
    with pytest.raises(SpecInvalid, match="outside"):
        inspect(path)
    assert inspect(path, backing_dirs=[other]).backing == (ours / "middle", ours / "base")


@pytest.mark.parametrize("files", [{"top": b"top"}, {"a": b"top", "top": b"a"}])
def test_files_that_lead_back_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(SpecInvalid, match="lead back"):
        inspect(place(tmp_path, **files))


def test_a_chain_of_too_many_files_is_refused(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(MAX_BACKING_FILES + 2)]
    chain = {name: names[number - 1].encode() if number else None for number, name in enumerate(names)}
    with pytest.raises(SpecInvalid, match=f"more than {MAX_BACKING_FILES}"):
        inspect(place(tmp_path, **chain))
    assert len(inspect(tmp_path / names[MAX_BACKING_FILES]).backing) == MAX_BACKING_FILES


def test_a_layer_is_recognized_by_its_header(tmp_path: Path) -> None:
    write_layer(tmp_path / "layer", CLUSTER_BYTES, None, Difference((), ()), lambda index: b"")
    assert inspect(tmp_path / "layer").is_layer_format
    assert not inspect(place(tmp_path, other=None)).is_layer_format


@pytest.mark.parametrize(("content", "kind"), [(b"", "raw"), (bytes(1024), "raw"), (qcow2(), "qcow2")])
def test_the_format_is_detected(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert inspect(tmp_path / "disk").format == kind


def test_a_named_format_is_not_detected(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(qcow2(b"/etc/passwd"))
    assert inspect(tmp_path / "disk", "raw").backing == ()
    with pytest.raises(SpecInvalid, match="format 'vdi'; kigi publishes qcow2, raw and vmdk"):
        inspect(tmp_path / "disk", "vdi")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["folder", "absent"])
def test_only_a_regular_file_is_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "disk")
    with pytest.raises(SpecInvalid, match=r"not a regular file|cannot be read"):
        inspect(tmp_path / "disk")


DESCRIPTOR = b'# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType="monolithicSparse"\n'


def vmdk(descriptor: bytes = DESCRIPTOR, capacity: int = 2048) -> bytes:
    return (b"KDMV" + bytes(8) + struct.pack("<Q", capacity)).ljust(512, b"\0") + descriptor.ljust(20 * 512, b"\0")


@pytest.mark.parametrize("kind", [b"monolithicSparse", b"streamOptimized"])
def test_a_vmdk_in_one_file_is_accepted(kind: bytes) -> None:
    refuse_several_files(PATH, vmdk(DESCRIPTOR.replace(b"monolithicSparse", kind)))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (DESCRIPTOR, "not a sparse VMDK"),
        (b"COWD".ljust(1024, b"\0"), "not a sparse VMDK"),
        (vmdk()[:100], "not a sparse VMDK"),
        (vmdk(capacity=0), "names its extents"),
        (vmdk(DESCRIPTOR.replace(b"monolithicSparse", b"monolithicFlat")), "another type"),
        (vmdk(DESCRIPTOR * 2), "another type"),
        (vmdk(b""), "another type"),
        (vmdk(DESCRIPTOR + b'ParentFileNameHint="x"'), "above a parent"),
        (vmdk(DESCRIPTOR.replace(b"parentCID=ffffffff", b"parentCID=1")), "above a parent"),
        (vmdk(DESCRIPTOR.replace(b"parentCID=ffffffff", b"")), "above a parent"),
    ],
)
def test_a_vmdk_that_names_other_files_is_refused(head: bytes, words: str) -> None:
    with pytest.raises(SpecInvalid, match=words):
        refuse_several_files(PATH, head)


def test_links_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "disk.qcow2").write_bytes(qcow2(b"loop"))
    with pytest.raises(SpecInvalid):
        inspect(tmp_path / "disk.qcow2")


@pytest.mark.parametrize("name", [b"\x1b[2Jx", b"x\ny", b"\xff", "\N{RIGHT-TO-LEFT OVERRIDE}x".encode(), b"a" * 1000])
def test_a_name_from_a_header_is_shown_without_control_characters(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "disk.qcow2").write_bytes(qcow2(name))
    with pytest.raises(SpecInvalid) as caught:
        inspect(tmp_path / "disk.qcow2")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < MAX_SHOWN + 200


def test_a_long_backing_format_is_not_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").write_bytes(qcow2(b"base.qcow2", backing_format=b"\xff" * 60_000))
    with pytest.raises(SpecInvalid) as caught:
        inspect(tmp_path / "disk.qcow2")
    assert len(str(caught.value)) < 1000
