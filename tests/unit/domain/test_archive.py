from __future__ import annotations

import io
import tarfile

import pytest

from kigi.domain.archive import (
    END,
    Selection,
    declared_layers,
    expect_member,
    member_header,
    member_name,
    padding,
    select,
)
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.systems import MachineChange, System
from kigi.errors import ArchiveRefused, ImageMissing, SystemMissing

A = Digest("sha256:" + "a" * 64)


def image(name: str, parent: str | None = None, layer: str | None = None, size_bytes: int = 100) -> Image:
    return Image(name, Digest(f"sha256:{(layer or name[0]) * 64}"), size_bytes, 512, parent)


def nodes(*images: Image) -> dict[str, Image]:
    return {each.name: each for each in images}


IMAGES = nodes(image("base"), image("child", "base"), image("deep", "child"), image("elder", "base"), image("far"))
SYSTEMS = {
    "first": System("first", None, (MachineChange("m", "child"),)),
    "second": System("second", "first", (MachineChange("n", "elder"),)),
    "other": System("other", None, (MachineChange("m", "far"),)),
}


@pytest.mark.parametrize(
    ("state", "top", "children", "images", "systems"),
    [
        pytest.param("first", None, False, "base child", "first", id="a state with what it needs"),
        pytest.param("second", None, False, "base child elder", "first second", id="with its ancestors"),
        pytest.param("first", None, True, "base child elder", "first second", id="with its dependents"),
        pytest.param(None, "child", False, "base child", "", id="an image with its chain"),
        pytest.param(None, "child", True, "base child deep", "", id="an image with its children"),
        pytest.param(None, "far", True, "far", "", id="a root alone"),
    ],
)
def test_a_subtree_is_complete_and_parents_come_first(
    state: str | None, top: str | None, children: bool, images: str, systems: str
) -> None:
    chosen = select(IMAGES, SYSTEMS, state=state, image=top, children=children)
    assert chosen == Selection(tuple(images.split()), tuple(systems.split()))


def test_an_incomplete_subtree_is_not_exported() -> None:
    with pytest.raises(ImageMissing, match="gone"):
        select(nodes(image("x", "gone")), {}, state=None, image="x", children=False)
    with pytest.raises(SystemMissing, match="gone"):
        select({}, {"s": System("s", "gone")}, state="s", image=None, children=False)


def test_each_layer_is_declared_once_with_its_parent() -> None:
    layers = declared_layers(nodes(image("base"), image("child", "base"), image("copy", "base", "c")), {}, 64)
    assert [(layer.digest[7], layer.parent and layer.parent[7]) for layer in layers.values()] == [
        ("b", None),
        ("c", "b"),
    ]


@pytest.mark.parametrize(
    ("images", "systems", "message"),
    [
        pytest.param(nodes(image("x", "gone")), {}, "'gone' does not exist", id="missing parent"),
        pytest.param(nodes(image("x", "y"), image("y", "x")), {}, "back to itself", id="cycle"),
        pytest.param(nodes(image("x"), image("y", None, "x", 7)), {}, "in two ways", id="two sizes of a digest"),
        pytest.param(nodes(image("x"), image("y", "x"), image("z", None, "y")), {}, "in two ways", id="two parents"),
        pytest.param(nodes(image("x"), image("y", "x"), image("z", "y")), {}, "takes 2", id="too deep"),
        pytest.param({}, {"s": System("s", "gone")}, "'gone' does not exist", id="missing parent state"),
        pytest.param({}, {"s": System("s", None, (MachineChange("m", "gone"),))}, "'gone'", id="missing image"),
        pytest.param({}, {"s": System("s", "s")}, "back to itself", id="cycle of states"),
    ],
)
def test_an_incomplete_manifest_is_refused(images: dict[str, Image], systems: dict[str, System], message: str) -> None:
    with pytest.raises(ArchiveRefused, match=message):
        declared_layers(images, systems, 2)


@pytest.mark.parametrize("size_bytes", [1, 512, 8 * 2**30, 3 * 2**40])
def test_members_of_any_size_are_read_as_they_are_written(size_bytes: int) -> None:
    header = member_header(member_name(A), size_bytes)
    assert len(header) == 512
    assert expect_member(header, member_name(A), size_bytes) == size_bytes
    assert (size_bytes + padding(size_bytes)) % 512 == 0


def test_the_file_is_a_tar_that_other_programs_read() -> None:
    text = member_header("manifest.json", 2) + b"{}".ljust(512, b"\0") + END
    with tarfile.open(fileobj=io.BytesIO(text)) as tar:
        assert [(member.name, member.size) for member in tar] == [("manifest.json", 2)]


def link(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info.tobuf(tarfile.GNU_FORMAT)


GOOD = member_header(member_name(A), 100)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GOOD[:511], id="cut"),
        pytest.param(bytes(512), id="the end"),
        pytest.param(GOOD[:200] + b"x" + GOOD[201:], id="checksum"),
        pytest.param(member_header("../../etc/passwd", 100), id="path upwards"),
        pytest.param(member_header("/" + member_name(A), 100), id="absolute path"),
        pytest.param(member_header(member_name(A) + "x", 100), id="another name"),
        pytest.param(member_header(member_name(A), 101), id="another size"),
        pytest.param(member_header(member_name(A), 2**60), id="huge"),
        pytest.param(link(member_name(A)), id="link"),
        pytest.param(b"\xff" * 512, id="noise"),
    ],
)
def test_any_other_member_is_refused(header: bytes) -> None:
    with pytest.raises(ArchiveRefused):
        expect_member(header, member_name(A), 100)
