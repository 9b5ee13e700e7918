"""Hostile layers and overlays: files of qemu-img with one change each.

A header case changes the first cluster of a real file and names the rule that must stop it. A body case changes the
bytes, so that they no longer have the digest. A node case changes a file of a node's cache directory.
"""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.qcow2 import CLUSTER_BYTES

# Places of the fields that a case changes, with their struct formats (QEMU docs/interop/qcow2).
MAGIC, VERSION, BACKING_OFFSET, BACKING_SIZE = (0, ">I"), (4, ">I"), (8, ">Q"), (16, ">I")
CLUSTER_BITS, VIRTUAL_SIZE, ENCRYPTION = (20, ">I"), (24, ">Q"), (32, ">I")
L1_SIZE, L1_OFFSET, REFCOUNT_OFFSET, REFCOUNT_CLUSTERS = (36, ">I"), (40, ">Q"), (48, ">Q"), (56, ">I")
SNAPSHOTS, SNAPSHOTS_OFFSET = (60, ">I"), (64, ">Q")
INCOMPATIBLE, COMPATIBLE, AUTOCLEAR = (72, ">Q"), (80, ">Q"), (88, ">Q")
REFCOUNT_ORDER, HEADER_LENGTH, COMPRESSION = (96, ">I"), (100, ">I"), (104, ">B")

BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
DATA_FILE = 0x44415441
LUKS = 0x0537BE77
BITMAPS = 0x23852875

Change = Callable[[bytearray], None]
Field = tuple[int, str]


@dataclass(frozen=True, slots=True)
class HeaderCase:
    """A change of a file that has a backing file; one of ``rules`` must refuse the result."""

    name: str
    rules: frozenset[str]
    change: Change


@dataclass(frozen=True, slots=True)
class BodyCase:
    """Bytes served in place of a layer's: ``change(right, other)``, where ``other`` is another layer's content."""

    name: str
    change: Callable[[bytes, bytes], bytes]


@dataclass(frozen=True, slots=True)
class NodeCase:
    """Replaces the file of a held layer."""

    name: str
    change: Callable[[Path], None]


def put(field: Field, value: int) -> Change:
    """Write one field of the header."""
    offset, form = field
    return lambda data: struct.pack_into(form, data, offset, value)


def get(data: bytes | bytearray, field: Field) -> int:
    """Read one field of the header."""
    offset, form = field
    return int(struct.unpack_from(form, data, offset)[0])


def backing_name(data: bytes | bytearray) -> bytes:
    """The backing file's name in the header."""
    offset = get(data, BACKING_OFFSET)
    return bytes(data[offset : offset + get(data, BACKING_SIZE)])


def rewrite(
    data: bytearray,
    *extensions: tuple[int, bytes],
    name: bytes | None,
    end: bytes = bytes(8),
    backing_format: bytes | None = b"qcow2",
) -> None:
    """Write the rest of the first cluster again: the backing format, ``extensions``, their end, the backing name."""
    length = get(data, HEADER_LENGTH)
    area = b""
    known = ((BACKING_FORMAT, backing_format),) if backing_format is not None else ()
    for kind, content in (*known, *extensions):
        area += struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)
    area += end
    put(BACKING_OFFSET, length + len(area) if name is not None else 0)(data)
    put(BACKING_SIZE, len(name or b""))(data)
    area += name or b""
    data[length:CLUSTER_BYTES] = area[: CLUSTER_BYTES - length].ljust(CLUSTER_BYTES - length, b"\0")


def _named(name: bytes) -> Change:
    return lambda data: rewrite(data, name=name)


def _with(kind: int, content: bytes) -> Change:
    return lambda data: rewrite(data, (kind, content), name=backing_name(data))


def _ended(end: bytes) -> Change:
    """Other bytes in place of the end of the extensions."""
    return lambda data: rewrite(data, name=backing_name(data), end=end)


def _feature_names_twice(data: bytearray) -> None:
    rewrite(data, (FEATURE_NAMES, bytes(48)), (FEATURE_NAMES, bytes(48)), name=backing_name(data))


def _format(backing_format: bytes | None) -> Change:
    return lambda data: rewrite(data, name=backing_name(data), backing_format=backing_format)


def _both(*changes: Change) -> Change:
    def change(data: bytearray) -> None:
        for one in changes:
            one(data)

    return change


def _start(content: bytes) -> Change:
    def change(data: bytearray) -> None:
        data[: len(content)] = content

    return change


def _shown_name(transform: Callable[[bytes], bytes]) -> Change:
    return lambda data: rewrite(data, name=transform(backing_name(data)))


def _name_at(offset: Callable[[bytearray], int]) -> Change:
    """The same name at another offset."""

    def change(data: bytearray) -> None:
        name, place = backing_name(data), offset(data)
        data.extend(bytes(max(0, place + len(name) - len(data))))
        data[place : place + len(name)] = name
        put(BACKING_OFFSET, place)(data)

    return change


def _endless(data: bytearray) -> None:
    """Extensions without an end marker, up to the backing name."""
    rewrite(data, (FEATURE_NAMES, bytes(48)), name=backing_name(data), end=b"")


def _overlapping(data: bytearray) -> None:
    put(L1_OFFSET, get(data, REFCOUNT_OFFSET))(data)


def _one_over(field: Field, by: int = 1) -> Change:
    return lambda data: put(field, get(data, field) + by)(data)


def _cut(length: int) -> Change:
    def change(data: bytearray) -> None:
        del data[length:]

    return change


def _case(name: str, rules: str, change: Change) -> HeaderCase:
    return HeaderCase(name, frozenset(rules.split()), change)


HEADER_CASES = [
    # another file of the host as backing file
    _case("backing-absolute-path", "parent", _named(b"/etc/shadow")),
    _case("backing-device", "parent", _named(b"/dev/sda")),
    _case("backing-proc", "parent", _named(b"/proc/self/environ")),
    _case("backing-dot-dot", "parent", _shown_name(lambda name: b"../" + name)),
    _case("backing-below-a-folder", "parent", _shown_name(lambda name: b"x/../" + name)),
    _case("backing-dot-slash", "parent", _shown_name(lambda name: b"./" + name)),
    _case("backing-json", "parent", _named(b'json:{"driver":"raw","file":{"filename":"/etc/shadow"}}')),
    _case("backing-json-remote", "parent", _named(b'json:{"driver":"nbd","host":"127.0.0.1","port":"1"}')),
    _case("backing-nbd", "parent", _named(b"nbd:127.0.0.1:10809")),
    _case("backing-nbd-unix", "parent", _named(b"nbd+unix:///?socket=/run/x")),
    _case("backing-http", "parent", _named(b"http://169.254.169.254/latest/meta-data")),
    _case("backing-ssh", "parent", _named(b"ssh://root@127.0.0.1/etc/shadow")),
    _case("backing-file-protocol", "parent", _shown_name(lambda name: b"file:" + name)),
    _case("backing-fat", "parent", _named(b"fat:rw:/etc")),
    _case("backing-fd-set", "parent", _named(b"/dev/fdset/1")),
    _case("backing-other-digest", "parent", _shown_name(lambda name: name[:-70] + b"f" * 64 + b".qcow2")),
    _case("backing-upper-case", "parent", _shown_name(lambda name: name[:-6].upper() + b".QCOW2")),
    _case("backing-longer", "parent", _shown_name(lambda name: name + b"2")),
    _case("backing-shorter", "parent", _shown_name(lambda name: name[:-1])),
    _case("backing-trailing-space", "parent", _shown_name(lambda name: name + b" ")),
    _case("backing-none", "parent", lambda data: rewrite(data, name=None, backing_format=None)),
    # a name that is not a name
    _case("backing-nul", "backing-file", _shown_name(lambda name: b"/etc/shadow\0" + name)),
    _case("backing-nul-behind", "backing-file", _shown_name(lambda name: name + b"\0")),
    _case("backing-newline", "backing-file", _shown_name(lambda name: name + b"\n")),
    _case("backing-escape", "backing-file", _shown_name(lambda name: b"\x1b[2J" + name)),
    _case("backing-utf8", "backing-file", _shown_name(lambda name: "\N{RIGHT-TO-LEFT OVERRIDE}".encode() + name)),
    _case("backing-not-utf8", "backing-file", _shown_name(lambda name: b"\xff" + name)),
    _case("backing-empty", "backing-file", _both(_named(b""), put(BACKING_OFFSET, 0x300))),
    _case("backing-1024-bytes", "backing-file", _named(b"a" * 1024)),
    _case("backing-4-GiB", "backing-file", put(BACKING_SIZE, 2**32 - 1)),
    _case("backing-size-without-offset", "backing-file", put(BACKING_OFFSET, 0)),
    _case("backing-in-fixed-header", "backing-file", put(BACKING_OFFSET, 16)),
    _case("backing-in-extensions", "extensions backing-file", put(BACKING_OFFSET, 116)),
    _case("backing-over-cluster-end", "backing-file", _name_at(lambda data: CLUSTER_BYTES - 8)),
    _case("backing-in-second-cluster", "backing-file", _name_at(lambda data: CLUSTER_BYTES + 8)),
    _case("backing-behind-the-file", "backing-file", put(BACKING_OFFSET, 2**40)),
    _case("backing-offset-2^64", "backing-file", put(BACKING_OFFSET, 2**64 - 1)),
    # a format that is guessed or wrong
    _case("backing-format-absent", "backing-format", _format(None)),
    _case("backing-format-raw", "backing-format", _format(b"raw")),
    _case("backing-format-empty", "backing-format", _format(b"")),
    _case("backing-format-luks", "backing-format", _format(b"luks")),
    _case("backing-format-host-device", "backing-format", _format(b"host_device")),
    _case("backing-format-nul", "backing-format", _format(b"qcow2\0")),
    _case("backing-format-twice", "extensions", _with(BACKING_FORMAT, b"raw")),
    _case("backing-format-without-file", "backing-format", lambda data: rewrite(data, name=None)),
    # extensions
    _case("data-file-extension", "data-file", _with(DATA_FILE, b"/etc/shadow")),
    _case("data-file-extension-and-bit", "data-file", _both(_with(DATA_FILE, b"/dev/sda"), put(INCOMPATIBLE, 4))),
    _case("luks-extension", "encryption", _with(LUKS, struct.pack(">QQ", CLUSTER_BYTES, CLUSTER_BYTES))),
    _case("bitmaps-extension", "bitmaps", _with(BITMAPS, bytes(24))),
    _case("unknown-extension", "extensions", _with(0x12345678, b"x")),
    _case("endless-extensions", "extensions", _endless),
    _case("extension-of-4-GiB", "extensions", _ended(struct.pack(">II", FEATURE_NAMES, 2**32 - 1))),
    _case("extension-over-the-name", "extensions", _ended(struct.pack(">II", FEATURE_NAMES, 60000))),
    _case("extension-of-4-GiB-unknown", "extensions", _ended(struct.pack(">II", 1, 2**32 - 1))),
    _case("end-with-a-length", "extensions", _ended(struct.pack(">II", 0, 8) + bytes(8))),
    _case("feature-names-twice", "extensions", _feature_names_twice),
    # snapshots, encryption, versions
    _case("snapshot", "snapshots", _both(put(SNAPSHOTS, 1), put(SNAPSHOTS_OFFSET, 4 * CLUSTER_BYTES))),
    _case("snapshots-4-billion", "snapshots", put(SNAPSHOTS, 2**32 - 1)),
    _case("snapshot-table-without-snapshots", "snapshots", put(SNAPSHOTS_OFFSET, CLUSTER_BYTES)),
    _case("encryption-aes", "encryption", put(ENCRYPTION, 1)),
    _case("encryption-luks", "encryption", put(ENCRYPTION, 2)),
    _case("version-1", "version", put(VERSION, 1)),
    _case("version-2", "version", put(VERSION, 2)),
    _case("version-4", "version", put(VERSION, 4)),
    _case("raw", "magic", _start(bytes(512))),
    _case("vmdk", "magic", _start(b"KDMV\x01\0\0\0")),
    _case("vmdk-descriptor", "magic", _start(b'# Disk DescriptorFile\nversion=1\nRW 8 FLAT "/etc/shadow" 0\n')),
    _case("vhdx", "magic", _start(b"vhdxfile")),
    _case("qed", "magic", _start(b"QED\0")),
    _case("mbr", "magic", _start(b"\xebc\x90")),
    _case("luks-disk", "magic", _start(b"LUKS\xba\xbe\0\x01")),
    # features
    _case("dirty", "dirty", put(INCOMPATIBLE, 1)),
    _case("corrupt", "corrupt", put(INCOMPATIBLE, 2)),
    _case("data-file-bit", "data-file", put(INCOMPATIBLE, 4)),
    _case("compression-bit", "compression-type", put(INCOMPATIBLE, 8)),
    _case("zstd", "compression-type", _both(put(INCOMPATIBLE, 8), put(COMPRESSION, 1))),
    _case("zstd-without-bit", "compression-type", put(COMPRESSION, 1)),
    _case("extended-l2", "extended-l2", put(INCOMPATIBLE, 16)),
    _case("incompatible-bit-5", "incompatible-features", put(INCOMPATIBLE, 32)),
    _case("incompatible-bit-63", "incompatible-features", put(INCOMPATIBLE, 2**63)),
    _case("lazy-refcounts", "lazy-refcounts", put(COMPATIBLE, 1)),
    _case("compatible-bit-9", "compatible-features", put(COMPATIBLE, 512)),
    _case("autoclear-bitmaps", "bitmaps", put(AUTOCLEAR, 1)),
    _case("autoclear-raw-data-file", "data-file", put(AUTOCLEAR, 2)),
    _case("autoclear-bit-7", "autoclear-features", put(AUTOCLEAR, 128)),
    # geometry
    _case("cluster-bits-9", "cluster-size", put(CLUSTER_BITS, 9)),
    _case("cluster-bits-21", "cluster-size", put(CLUSTER_BITS, 21)),
    _case("cluster-bits-2^32", "cluster-size", put(CLUSTER_BITS, 2**32 - 1)),
    _case("refcount-order-0", "refcount-order", put(REFCOUNT_ORDER, 0)),
    _case("refcount-order-64", "refcount-order", put(REFCOUNT_ORDER, 64)),
    _case("header-length-72", "header-length", put(HEADER_LENGTH, 72)),
    _case("header-length-0", "header-length", put(HEADER_LENGTH, 0)),
    _case("header-length-120", "header-length", put(HEADER_LENGTH, 120)),
    _case("header-length-2^32", "header-length", put(HEADER_LENGTH, 2**32 - 8)),
    _case("l1-size-0", "l1-size", put(L1_SIZE, 0)),
    _case("l1-size-one-more", "l1-size", _one_over(L1_SIZE)),
    _case("l1-size-huge", "l1-size", put(L1_SIZE, 2**32 - 1)),
    _case("l1-in-header", "l1-offset", put(L1_OFFSET, 0)),
    _case("l1-misaligned", "l1-offset", _one_over(L1_OFFSET, 8)),
    _case("l1-offset-2^63", "l1-offset", put(L1_OFFSET, 2**63)),
    _case("l1-behind-the-file", "truncated", put(L1_OFFSET, 2**40)),
    _case("l1-over-refcounts", "overlapping-tables", _overlapping),
    _case("refcounts-in-header", "refcount-offset", put(REFCOUNT_OFFSET, 0)),
    _case("refcounts-misaligned", "refcount-offset", _one_over(REFCOUNT_OFFSET, 512)),
    _case("refcounts-offset-2^64", "refcount-offset", put(REFCOUNT_OFFSET, 2**64 - CLUSTER_BYTES)),
    _case("refcounts-behind-the-file", "truncated", put(REFCOUNT_OFFSET, 2**40)),
    _case("refcounts-none", "refcount-size", put(REFCOUNT_CLUSTERS, 0)),
    _case("refcounts-huge", "refcount-size", put(REFCOUNT_CLUSTERS, 2**31)),
    _case("virtual-size-other", "declared-virtual-size", _one_over(VIRTUAL_SIZE, 512)),
    _case("virtual-size-smaller", "declared-virtual-size", _one_over(VIRTUAL_SIZE, -512)),
    _case("virtual-size-0", "virtual-size", put(VIRTUAL_SIZE, 0)),
    _case("virtual-size-odd", "virtual-size", _one_over(VIRTUAL_SIZE, 1)),
    _case("virtual-size-2^63", "virtual-size", put(VIRTUAL_SIZE, 2**63)),
    _case("virtual-size-of-more-l1", "l1-size", put(VIRTUAL_SIZE, 2**40)),
    # length
    _case("nothing", "truncated", _cut(0)),
    _case("one-byte", "truncated", _cut(1)),
    _case("half-a-header", "truncated", _cut(60)),
    _case("ends-in-extensions", "truncated backing-file", _cut(200)),
    _case("ends-in-the-name", "truncated backing-file", _cut(540)),
    _case("ends-after-the-header", "truncated", _cut(CLUSTER_BYTES)),
    _case("ends-before-l1", "truncated", lambda data: _cut(get(data, L1_OFFSET))(data)),
]
"""Each is tried as a layer whose digest is right and as an overlay that a guest has written."""


BODY_CASES = [
    BodyCase("empty", lambda right, other: b""),
    BodyCase("first-byte-only", lambda right, other: right[:1]),
    BodyCase("cut-in-the-header", lambda right, other: right[:100]),
    BodyCase("cut-after-the-header", lambda right, other: right[:CLUSTER_BYTES]),
    BodyCase("cut-in-the-middle", lambda right, other: right[: len(right) // 2]),
    BodyCase("last-byte-missing", lambda right, other: right[:-1]),
    BodyCase("one-byte-more", lambda right, other: right + b"\0"),
    BodyCase("junk-behind", lambda right, other: right + b"junk" * 50000),
    BodyCase("twice", lambda right, other: right + right),
    BodyCase("bit-flipped-in-the-header", lambda right, other: flipped(right, 300)),
    BodyCase("bit-flipped-in-the-tables", lambda right, other: flipped(right, CLUSTER_BYTES + 9)),
    BodyCase("bit-flipped-in-the-data", lambda right, other: flipped(right, len(right) - CLUSTER_BYTES)),
    BodyCase("last-bit-flipped", lambda right, other: flipped(right, len(right) - 1)),
    BodyCase("another-layer", lambda right, other: other),
    BodyCase("another-layer-same-size", lambda right, other: other[: len(right)].ljust(len(right), b"\0")),
    BodyCase("another-layers-header", lambda right, other: other[:CLUSTER_BYTES] + right[CLUSTER_BYTES:]),
    BodyCase("clusters-swapped", lambda right, other: right[:-131072] + right[-65536:] + right[-131072:-65536]),
    BodyCase("zeros", lambda right, other: bytes(len(right))),
    BodyCase(
        "zeros-in-the-middle",
        lambda right, other: right[:CLUSTER_BYTES] + bytes(70000) + right[CLUSTER_BYTES + 70000 :],
    ),
    BodyCase("shifted-by-one", lambda right, other: b"\0" + right[:-1]),
    BodyCase("hostile-header", lambda right, other: _changed(right, _named(b"/etc/shadow"))),
    BodyCase("html-error-page", lambda right, other: b"<html>gateway</html>".ljust(len(right), b" ")),
]


def flipped(content: bytes, position: int) -> bytes:
    """The content with one bit flipped."""
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def _changed(content: bytes, change: Change) -> bytes:
    data = bytearray(content)
    change(data)
    return bytes(data)


def apply(case: HeaderCase, content: bytes) -> bytes:
    """The content with the change of the case."""
    return _changed(content, case.change)


def _symlink(path: Path) -> None:
    copy = path.parent.parent / "elsewhere.qcow2"
    path.rename(copy)
    path.symlink_to(copy)


def _symlink_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/kigi")


def _symlink_to_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "below").write_text("x")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o600)


def _sparse(path: Path) -> None:
    size = path.stat().st_size
    path.unlink()
    with path.open("wb") as file:
        file.truncate(size)


def _holes(path: Path) -> None:
    size = path.stat().st_size
    subprocess.run(["fallocate", "-p", "-o", str(size // 2), "-l", "65536", str(path)], check=True)


def _rewritten(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(flipped(content, len(content) // 2))


def _in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(CLUSTER_BYTES * 2)
        file.write(b"rot")


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


NODE_CASES = [
    NodeCase("symlink-to-the-same-bytes", _symlink),
    NodeCase("symlink-to-nowhere", _symlink_to_nowhere),
    NodeCase("symlink-to-a-device", _symlink_to_device),
    NodeCase("directory", _directory),
    NodeCase("fifo", _fifo),
    NodeCase("socket", _socket),
    NodeCase("sparse-of-the-same-size", _sparse),
    NodeCase("hole", _holes),
    NodeCase("another-file", _rewritten),
    NodeCase("written-in-place", _in_place),
    NodeCase("appended", _longer),
    NodeCase("truncated", lambda path: os.truncate(path, 1000)),
    NodeCase("emptied", lambda path: os.truncate(path, 0)),
    NodeCase("gone", Path.unlink),
]
