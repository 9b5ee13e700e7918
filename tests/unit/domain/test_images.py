"""The image tree: paths to the root, chains, and every way in which they can be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kigi.domain.images import Image, image_chain, image_path
from kigi.domain.layers import MAX_DEPTH, Digest
from kigi.errors import ChainTooDeep, ImageCycle, ImageMissing, KigiError, SpecInvalid, VirtualSizeShrinks, Waiting

GIB = 2**30


def image(name: str, parent: str | None = None, virtual_size: int = GIB) -> Image:
    return Image(name, Digest(f"sha256:{name.encode().hex():0>64}"), len(name), virtual_size, parent)


def tree(*images: Image) -> dict[str, Image]:
    return {item.name: item for item in images}


def line(length: int) -> dict[str, Image]:
    """i0 <- i1 <- ... , ``length`` images."""
    return tree(*(image(f"i{n}", f"i{n - 1}" if n else None) for n in range(length)))


def test_a_path_runs_from_the_root_to_the_image() -> None:
    images = tree(image("base"), image("server", "base"), image("mail", "server"), image("desktop", "base"))
    assert [item.name for item in image_path(images, "mail")] == ["base", "server", "mail"]
    assert [item.name for item in image_path(images, "desktop")] == ["base", "desktop"]


def test_a_root_is_its_own_path() -> None:
    images = tree(image("base"))
    assert image_path(images, "base") == (images["base"],)


def test_each_layer_of_a_chain_names_the_one_below() -> None:
    images = tree(image("base"), image("server", "base"), image("mail", "server"))
    chain = image_chain(images, "mail")
    assert [layer.digest for layer in chain] == [images[name].digest for name in ("base", "server", "mail")]
    assert [layer.parent for layer in chain] == [None, chain[0].digest, chain[1].digest]


def test_a_layer_takes_sizes_and_repository_from_its_own_image() -> None:
    base = Image("base", Digest("sha256:" + "a" * 64), 10, GIB, None, "cold")
    top = Image("top", Digest("sha256:" + "b" * 64), 20, 2 * GIB, "base", "hot")
    first, second = image_chain(tree(base, top), "top")
    assert (first.size_bytes, first.virtual_size_bytes, first.repository) == (10, GIB, "cold")
    assert (second.size_bytes, second.virtual_size_bytes, second.repository) == (20, 2 * GIB, "hot")


def test_a_child_may_be_larger_than_its_parent_but_not_smaller() -> None:
    same = tree(image("base"), image("same", "base"))
    larger = tree(image("base"), image("larger", "base", GIB + 512))
    assert len(image_path(same, "same")) == len(image_path(larger, "larger")) == 2


def test_a_chain_of_the_greatest_depth_is_allowed() -> None:
    assert len(image_chain(line(MAX_DEPTH), f"i{MAX_DEPTH - 1}")) == MAX_DEPTH


BAD_TREES = [
    pytest.param({}, "ghost", ImageMissing, ["'ghost'", "does not exist"], id="image-unknown"),
    pytest.param(
        tree(image("mail", "server")),
        "mail",
        ImageMissing,
        ["VMImageNode mail", "spec.parentRef.name", "'server'"],
        id="parent-unknown",
    ),
    pytest.param(
        tree(image("server", "base"), image("mail", "server")),
        "mail",
        ImageMissing,
        ["VMImageNode server", "'base'"],
        id="grandparent-unknown-names-the-child-of-the-gap",
    ),
    pytest.param(tree(image("me", "me")), "me", ImageCycle, ["VMImageNode me", "spec.parent"], id="its-own-parent"),
    pytest.param(
        tree(image("a", "b"), image("b", "a")), "a", ImageCycle, ["VMImageNode a", "spec.parent"], id="cycle-of-two"
    ),
    pytest.param(
        tree(image("a", "c"), image("b", "a"), image("c", "b"), image("tail", "a")),
        "tail",
        ImageCycle,
        ["VMImageNode a"],
        id="leads-into-a-cycle-of-three",
    ),
    pytest.param(
        line(MAX_DEPTH + 1),
        f"i{MAX_DEPTH}",
        ChainTooDeep,
        [f"VMImageNode i{MAX_DEPTH}", f"more than {MAX_DEPTH}", "flatten"],
        id="one-too-deep",
    ),
    pytest.param(
        tree(image("base"), image("small", "base", GIB - 512)),
        "small",
        VirtualSizeShrinks,
        ["VMImageNode small", "virtualSizeBytes", str(GIB), str(GIB - 512), "base"],
        id="smaller-than-parent",
    ),
    pytest.param(
        tree(image("base"), image("small", "base", 512), image("top", "small", GIB)),
        "top",
        VirtualSizeShrinks,
        ["VMImageNode small", "base"],
        id="an-ancestor-is-smaller-than-its-parent",
    ),
]


@pytest.mark.parametrize(("images", "top", "error", "words"), BAD_TREES)
def test_a_bad_tree_is_refused_by_an_error_that_names_the_node(
    images: dict[str, Image], top: str, error: type[KigiError], words: list[str]
) -> None:
    for call in (image_path, image_chain):
        with pytest.raises(error) as raised:
            call(images, top)
        assert type(raised.value) is error
        for word in words:
            assert word in str(raised.value)


def test_a_very_long_cycle_raises_an_error() -> None:
    images = line(MAX_DEPTH * 3)
    images["i0"] = replace(images["i0"], parent=f"i{MAX_DEPTH * 3 - 1}")
    with pytest.raises(ChainTooDeep):
        image_path(images, "i5")


def test_a_fault_elsewhere_in_the_tree_does_not_hurt_a_good_path() -> None:
    images = tree(image("base"), image("good", "base"), image("bad", "ghost"), image("loop", "loop"))
    assert [item.name for item in image_path(images, "good")] == ["base", "good"]


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        pytest.param(ImageMissing, Waiting, id="a-missing-image-may-appear"),
        pytest.param(ImageCycle, SpecInvalid, id="a-cycle-needs-a-person"),
        pytest.param(ChainTooDeep, SpecInvalid, id="depth-needs-a-person"),
        pytest.param(VirtualSizeShrinks, SpecInvalid, id="size-needs-a-person"),
    ],
)
def test_the_type_of_the_error_shows_whether_a_user_must_act(error: type[KigiError], parent: type[KigiError]) -> None:
    assert issubclass(error, parent)
    assert error.reason == error.__name__
