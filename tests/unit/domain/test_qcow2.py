"""The header parser against real qemu-img files, the table of hostile headers, and arbitrary bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kigi.domain.layers import Digest, digest_hex
from kigi.domain.qcow2 import HEADER_BYTES, Qcow2Header, check_layer, check_overlay, parse_header
from kigi.errors import LayerRefused, OverlayRejected
from tests.support.hostile import HEADER_CASES, HeaderCase, apply

SIZE = 64 * 2**20
PARENT = Digest("sha256:" + "ab" * 32)
BACKING = f"{digest_hex(PARENT)}.qcow2"


def create(path: Path, size: int, *options: str, backing: str | None = None) -> bytes:
    named = ["-u", "-b", backing, "-F", "qcow2"] if backing else []
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, *named, str(path), str(size)]
    for _ in range(20):
        done = subprocess.run(command, capture_output=True, text=True)
        if "Unable to get accurate CPU usage" not in done.stderr:  # LUKS measures a hash, which a busy machine prevents
            break
    assert done.returncode == 0, done.stderr
    return path.read_bytes()


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return create(tmp_path_factory.mktemp("child") / "x", SIZE, backing=BACKING)


def check(content: bytes, size: int = SIZE) -> Qcow2Header:
    digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
    header = content[:HEADER_BYTES]
    return check_layer(header, digest=digest, parent=PARENT, virtual_size_bytes=size, size_bytes=len(content))


@pytest.mark.parametrize("size", [512, 65536, SIZE, 512 * 2**20, 512 * 2**20 + 512, 10 * 2**40], ids=str)
def test_what_qemu_img_makes_is_accepted(tmp_path: Path, size: int) -> None:
    header = check(create(tmp_path / "x", size, backing=BACKING), size)
    assert (header.virtual_size_bytes, header.backing_file) == (size, BACKING)
    root = parse_header(create(tmp_path / "root", size)[:HEADER_BYTES])
    assert (root.virtual_size_bytes, root.backing_file) == (size, None)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ("cluster_size=4k", "cluster-size"),
        ("cluster_size=2M", "cluster-size"),
        ("compat=0.10", "version"),
        ("lazy_refcounts=on", "lazy-refcounts"),
        ("refcount_bits=1", "refcount-order"),
        ("compression_type=zstd", "compression-type"),
        ("extended_l2=on,cluster_size=64k", "extended-l2"),
        ("data_file={}/data.raw", "data-file"),
        ("data_file={}/data.raw,data_file_raw=on", "data-file"),
        ("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "encryption"),
    ],
)
def test_what_qemu_img_makes_with_other_options_is_refused(tmp_path: Path, options: str, rule: str) -> None:
    secret = ["--object", "secret,id=s,data=geheim"] if "encrypt" in options else []
    content = create(tmp_path / "x", SIZE, *secret, "-o", options.format(tmp_path))
    with pytest.raises(LayerRefused) as refusal:
        parse_header(content[:HEADER_BYTES])
    assert refusal.value.rule == rule


def test_a_snapshot_and_a_bitmap_of_qemu_img_are_refused(tmp_path: Path) -> None:
    create(tmp_path / "x", SIZE)
    subprocess.run(["qemu-img", "snapshot", "-c", "before", str(tmp_path / "x")], check=True)
    create(tmp_path / "y", SIZE)
    subprocess.run(["qemu-img", "bitmap", "--add", str(tmp_path / "y"), "changes"], check=True)
    for name, rule in (("x", "snapshots"), ("y", "bitmaps")):
        with pytest.raises(LayerRefused) as refusal:
            parse_header((tmp_path / name).read_bytes()[:HEADER_BYTES])
        assert refusal.value.rule == rule


@pytest.mark.parametrize("case", HEADER_CASES, ids=lambda case: case.name)
def test_each_hostile_header_breaks_its_rule(child: bytes, case: HeaderCase) -> None:
    with pytest.raises(LayerRefused) as refusal:
        check(apply(case, child))
    assert refusal.value.rule in case.rules
    assert "publish it with 'kigi publish'" in str(refusal.value)


@pytest.mark.parametrize("case", HEADER_CASES, ids=lambda case: case.name)
def test_each_hostile_header_is_no_overlay(child: bytes, case: HeaderCase) -> None:
    content = apply(case, child)
    with pytest.raises(OverlayRejected, match="reset the machine"):
        check_overlay(content[:HEADER_BYTES], backing_name=BACKING, virtual_size_bytes=SIZE, size_bytes=len(content))


def test_the_cases_are_distinct(child: bytes) -> None:
    assert len({apply(case, child) for case in HEADER_CASES}) == len(HEADER_CASES) >= 40
    assert len({case.name for case in HEADER_CASES}) == len(HEADER_CASES)


def test_a_root_may_not_have_a_parent_and_a_child_must(tmp_path: Path, child: bytes) -> None:
    root = create(tmp_path / "x", SIZE)
    with pytest.raises(LayerRefused, match="parent"):
        check(root)
    with pytest.raises(LayerRefused, match="parent"):
        check_layer(child[:HEADER_BYTES], digest=PARENT, parent=None, virtual_size_bytes=SIZE, size_bytes=len(child))


@given(st.binary(max_size=4096))
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(LayerRefused):
        parse_header(data)


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Changes of the header's fields, its extensions and its name."""
    place = st.one_of(st.sampled_from([*range(0, 112, 4), 112, 116, 120, 128, 132]), st.integers(0, 700))
    value = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.integers(0, 2**32 - 1).map(lambda n: n.to_bytes(4, "big")),
        st.sampled_from([0, 1, 2, 4, 8, 65536, 131072, 196608, 2**26, 2**26 + 512]).map(lambda n: n.to_bytes(8, "big")),
    )
    return draw(st.lists(st.tuples(place, value), min_size=1, max_size=3))


def mutated(content: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    data = bytearray(content)
    for place, value in changes:
        data[place : place + len(value)] = value
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(changes=mutations(), length=st.integers(0, HEADER_BYTES))
def test_a_mutated_header_is_read_or_refused(child: bytes, changes: list[tuple[int, bytes]], length: int) -> None:
    for data in (mutated(child, changes)[:HEADER_BYTES], mutated(child, changes)[:length]):
        try:
            header = parse_header(data)
        except LayerRefused:
            continue
        assert header.backing_file is None or header.backing_file.isprintable()


@st.composite
def harmless(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Changes that the parser often accepts: the name, padding, feature names, the virtual size."""
    printable = st.binary(min_size=1, max_size=8).map(lambda data: bytes(32 + byte % 95 for byte in data))
    name = st.tuples(st.integers(0x210, 0x250), printable)
    names = st.tuples(st.integers(0x88, 0x200), st.binary(min_size=1, max_size=8))
    behind = st.tuples(st.integers(0x256, 0x1000), st.binary(min_size=1, max_size=8))
    sectors = st.integers(1, SIZE // 512).map(lambda n: (24, (n * 512).to_bytes(8, "big")))
    length = st.integers(1, 0x46).map(lambda n: (16, n.to_bytes(4, "big")))
    return draw(st.lists(st.one_of(name, names, behind, sectors, length), min_size=1, max_size=4))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.one_of(harmless(), mutations()))
def test_qemu_reads_an_accepted_header_as_we_do(tmp_path: Path, child: bytes, changes: list[tuple[int, bytes]]) -> None:
    content = mutated(child, changes)
    try:
        header = parse_header(content[:HEADER_BYTES])
    except LayerRefused:
        return
    if header.tables_end > len(content):
        return
    path = tmp_path / "x.qcow2"
    path.write_bytes(content)
    done = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", "-f", "qcow2", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    assert info["virtual-size"] == header.virtual_size_bytes
    assert info.get("backing-filename") == header.backing_file
    assert info.get("backing-filename-format") == ("qcow2" if header.backing_file else None)
    assert "data-file" not in info["format-specific"]["data"] and not info.get("encrypted")
