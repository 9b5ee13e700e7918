"""Both trees of a namespace: an invalid node is an error of its descendants, and of nothing else."""

from __future__ import annotations

import pytest

from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.systems import MachineChange, ResolvedSystem, System
from kigi.domain.trees import Trees
from kigi.domain.usage import User
from kigi.errors import ImageCycle, ImageMissing, KigiError, SpecInvalid, SystemMissing

BAD_IMAGE, BAD_SYSTEM = SpecInvalid("image is damaged"), SpecInvalid("state is damaged")


def image(name: str, parent: str | None = None) -> Image:
    return Image(name, Digest(f"sha256:{name.encode().hex():0>64}"), 100, 1024, parent)


def system(name: str, parent: str | None = None, **machines: str) -> System:
    return System(name, parent, tuple(MachineChange(machine, image) for machine, image in machines.items()))


TREES = Trees(
    {
        "base": image("base"),
        "mid": image("mid", "base"),
        "top": image("top", "mid"),
        "other": image("other", "base"),
        "bad": BAD_IMAGE,
        "above-bad": image("above-bad", "bad"),
        "far-above-bad": image("far-above-bad", "above-bad"),
        "orphan": image("orphan", "gone"),
        "x": image("x", "y"),
        "y": image("y", "x"),
    },
    {
        "first": system("first", m="top"),
        "second": system("second", "first", n="other"),
        "broken": system("broken", m="above-bad"),
        "bad": BAD_SYSTEM,
        "above-bad": system("above-bad", "bad", m="base"),
        "lost": system("lost", "gone"),
    },
)


def test_a_chain_has_the_layers_from_the_root() -> None:
    chain = TREES.chain("top")
    assert not isinstance(chain, KigiError)
    assert [layer.digest for layer in chain] == [image(name).digest for name in ("base", "mid", "top")]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("bad", BAD_IMAGE),
        ("above-bad", BAD_IMAGE),
        ("far-above-bad", BAD_IMAGE),
        ("orphan", ImageMissing),
        ("unknown", ImageMissing),
        ("x", ImageCycle),
    ],
)
def test_a_chain_that_reaches_no_root_is_an_error(name: str, error: object) -> None:
    found = TREES.chain(name)
    assert found is error or type(found) is error


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("bad", BAD_SYSTEM),
        ("above-bad", BAD_SYSTEM),
        ("broken", BAD_IMAGE),
        ("lost", SystemMissing),
        ("unknown", SystemMissing),
    ],
)
def test_a_state_that_cannot_be_resolved_is_an_error(name: str, error: object) -> None:
    found = TREES.system(name)
    assert found is error or type(found) is error


def test_a_state_beside_invalid_nodes_is_resolved_once() -> None:
    found = TREES.system("second")
    assert isinstance(found, ResolvedSystem)
    assert [machine.name for machine in found.machines] == ["m", "n"]
    assert TREES.system("second") is found


def test_users_are_children_and_states() -> None:
    assert TREES.image_users("base") == (
        User("SystemNode", "above-bad"),
        User("VMImageNode", "mid"),
        User("VMImageNode", "other"),
    )
    assert TREES.image_users("top") == (User("SystemNode", "first"),)
    assert TREES.image_users("x") == (), "images of a cycle do not keep each other"
    assert TREES.children("base") == 2


def test_a_subtree_has_each_descendant_once_even_in_a_cycle() -> None:
    assert sorted(TREES.subtree("base")) == ["base", "mid", "other", "top"]
    assert sorted(TREES.subtree("x")) == ["x", "y"]
