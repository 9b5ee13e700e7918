from __future__ import annotations

import pytest

from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.systems import DiskChange, MachineChange, System
from kigi.domain.usage import (
    User,
    format_users,
    freed_bytes,
    freed_layers,
    unused_without,
    users_of_images,
    users_of_systems,
)


def digest(text: str) -> Digest:
    return Digest(f"sha256:{text * 64}")


def image(name: str, parent: str | None = None, layer: str = "a", size_bytes: int = 100) -> Image:
    return Image(name, digest(layer), size_bytes, 512, parent)


def state(name: str, *images: str, parent: str | None = None) -> System:
    return System(name, parent, tuple(MachineChange(f"m{n}", each) for n, each in enumerate(images)))


def named(*nodes: Image) -> dict[str, Image]:
    return {node.name: node for node in nodes}


def test_an_image_is_used_by_its_children_and_by_the_states_that_name_it() -> None:
    further = System("s", machines=(MachineChange("m", None, disks=(DiskChange("data", "base"),)),))
    users = users_of_images(named(image("base"), image("top", "base")), {"s": further, "t": state("t", "top", "top")})
    assert users["base"] == (User("SystemNode", "s"), User("VMImageNode", "top"))
    assert users["top"] == (User("SystemNode", "t"),)


def test_a_state_that_keeps_or_removes_a_machine_does_not_use_its_image() -> None:
    child = System("s", "p", (MachineChange("m0", None), MachineChange("m1", removed=True)))
    assert users_of_images(named(image("base")), {"s": child}) == {}


def test_a_state_is_used_by_its_children_and_by_deployments() -> None:
    users = users_of_systems(
        {"p": state("p"), "c": state("c", parent="p")}, {User("SystemDeployment", "class"): ["c", "missing"]}
    )
    assert users["p"] == (User("SystemNode", "c"),)
    assert users["c"] == (User("SystemDeployment", "class"),)


def test_nodes_of_a_cycle_do_not_keep_each_other_but_nodes_based_on_it_do() -> None:
    nodes = named(image("a", "b"), image("b", "c"), image("c", "a"), image("self", "self"), image("d", "b"))
    assert users_of_images(nodes, {}) == {"b": (User("VMImageNode", "d"),)}


def test_a_missing_parent_affects_no_other_node() -> None:
    users = users_of_images(named(image("a", "gone")), {})
    assert users == {"gone": (User("VMImageNode", "a"),)}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "SystemNode s0"),
        (2, "SystemNode s0, SystemNode s1"),
        (8, ", ".join(f"SystemNode s{n}" for n in range(8))),
        (10, ", ".join(f"SystemNode s{n}" for n in range(8)) + ", and 2 more"),
    ],
)
def test_a_message_names_a_few_users_and_counts_the_rest(count: int, text: str) -> None:
    assert format_users(User("SystemNode", f"s{n}") for n in range(count)) == text


BASE, CHILD, COPY = ("ns", "base"), ("ns", "child"), ("other", "copy")
TREE = {
    BASE: image("base", layer="a", size_bytes=1000),
    CHILD: image("child", "base", layer="b", size_bytes=10),
    COPY: image("copy", layer="a", size_bytes=1000),
}


def test_only_layers_that_no_other_tree_names_are_freed() -> None:
    assert freed_layers(TREE, [CHILD]) == {(None, digest("b")): 10}
    assert freed_bytes(TREE, [BASE, CHILD]) == 10
    assert freed_bytes(TREE, [BASE, CHILD, COPY]) == 1010


def test_a_layer_below_a_remaining_child_is_kept() -> None:
    tree = {key: TREE[key] for key in (BASE, CHILD)}
    assert freed_bytes(tree, [BASE]) == 0


def test_the_same_digest_in_another_repository_is_another_object() -> None:
    tree = {BASE: TREE[BASE], COPY: Image("copy", digest("a"), 1000, 512, None, "second")}
    assert freed_layers(tree, [COPY]) == {("second", digest("a")): 1000}


def test_deleting_what_is_not_there_frees_nothing() -> None:
    assert freed_bytes(TREE, [("ns", "unknown")]) == 0


def test_images_of_a_state_alone_are_unused_without_it_with_the_parents_that_only_they_have() -> None:
    nodes = named(image("base"), image("role", "base"), image("top", "role"), image("other", "base"), image("idle"))
    systems = {"s": state("s", "top"), "t": state("t", "other")}
    assert unused_without(nodes, systems, "s") == ("top", "role")
    assert unused_without(nodes, {"s": systems["s"]}, "s") == ("top", "role")
    assert unused_without(nodes, {**systems, "u": state("u", "role")}, "s") == ("top",)
    assert unused_without(nodes, systems, "unknown") == ()


def test_users_in_other_namespaces_are_counted_and_not_named() -> None:
    foreign = [
        User("SystemNode", "zzsecret-a", "zzsecret-1"),
        User("SystemNode", "zzsecret-b", "zzsecret-2"),
        User("SystemDeployment", "zzsecret-c", "zzsecret-2"),
        User("SystemPrefetch", "zzsecret-d", "zzsecret-2"),
    ]
    assert format_users(foreign[:1]) == "1 SystemNode in 1 other namespace"
    assert (
        format_users([User("SystemNode", "own"), *foreign])
        == "SystemNode own, 1 SystemDeployment, 2 SystemNodes, 1 SystemPrefetch in 2 other namespaces"
    )
    many = [User("SystemNode", f"s{number}") for number in range(10)]
    assert format_users([*many, *foreign[:1]]).endswith("SystemNode s7, and 2 more, 1 SystemNode in 1 other namespace")
    assert "zzsecret" not in format_users(foreign * 5)


def test_plurals_of_kinds() -> None:
    users = [User("SystemPrefetch", f"p{number}", "other") for number in range(2)]
    assert format_users(users) == "2 SystemPrefetches in 1 other namespace"
