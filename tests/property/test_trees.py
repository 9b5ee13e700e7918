"""Laws of both trees."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.images import Image, image_chain, image_path
from kigi.domain.layers import Digest, missing_layers, total_bytes, unique_layers
from kigi.domain.machine_patch import apply_patch, join_patches
from kigi.domain.machine_settings import UNSET, merge_settings
from kigi.domain.merge_patch import merge_patch
from kigi.domain.systems import MachineChange, System, resolve_system, system_path
from kigi.errors import ImageCycle, VirtualSizeShrinks

MACHINES = ("dns", "files", "mail", "proxy")


def _digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


@st.composite
def forests(draw: st.DrawFn, most: int = 20) -> dict[str, Image]:
    """1 to ``most`` images; each is based on an earlier one or is a root, and is at least as large."""
    images: list[Image] = []
    for number in range(draw(st.integers(1, most))):
        parent = draw(st.sampled_from([None, *images]))
        size = (parent.virtual_size_bytes if parent else 512) + 512 * draw(st.integers(0, 3))
        name = parent.name if parent else None
        images.append(Image(f"i{number}", _digest(number), draw(st.integers(1, 10**9)), size, name))
    order = draw(st.randoms(use_true_random=False))
    order.shuffle(images)
    return {image.name: image for image in images}


non_null = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.sampled_from("xyz"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)
patches = st.fixed_dictionaries(
    {},
    optional={
        "merge": st.dictionaries(st.sampled_from("abc"), non_null, max_size=3),
        "remove": st.lists(paths, max_size=3, unique=True),
    },
)


settings = st.fixed_dictionaries(
    {},
    optional={
        "hardware": st.fixed_dictionaries(
            {},
            optional={
                "cpu": st.dictionaries(st.sampled_from(["cores", "sockets"]), st.integers(1, 4), min_size=1),
                "memory": st.fixed_dictionaries({"guest": st.sampled_from(["1Gi", "2Gi"])}),
                "preferenceRef": st.fixed_dictionaries({"name": st.sampled_from("ab")}),
                "interfaces": st.lists(st.just({"name": "e", "networkName": "pod"}), max_size=1),
                "cloudInit": st.sampled_from([{"userData": "u"}, {"networkData": "n"}, {"secretRef": {"name": "s"}}]),
            },
        ),
        "patch": patches,
        "startAfter": st.lists(st.sampled_from("ab"), max_size=2),
        "readinessProbe": st.sampled_from([{"guestAgentPing": {}}, {"tcpSocket": {"port": 1}, "periodSeconds": 2}]),
        "guestPowerOffPolicy": st.sampled_from(["Restart", "StayOff"]),
    },
)
unset = st.lists(st.sampled_from(sorted(UNSET)), unique=True)


@st.composite
def system_trees(draw: st.DrawFn) -> tuple[dict[str, Image], dict[str, System]]:
    """Images, and 1 to 8 states whose changes are all allowed: only present machines change or go."""
    images = draw(forests(8))
    systems: list[System] = []
    present: dict[str | None, set[str]] = {None: set()}
    for number in range(draw(st.integers(1, 8))):
        parent = draw(st.sampled_from([None, *(system.name for system in systems)]))
        machines = set(present[parent])
        changes = []
        for name in draw(st.lists(st.sampled_from(MACHINES), unique=True)):
            if name in machines and draw(st.booleans()):
                machines.remove(name)
                changes.append(MachineChange(name, removed=True))
                continue
            keeps = name in machines and draw(st.booleans())
            image = None if keeps else draw(st.sampled_from(sorted(images)))
            own = {key: value for key, value in draw(settings).items() if key != "startAfter"}
            changes.append(MachineChange(name, image, own, unset=tuple(draw(unset))))
            machines.add(name)
        system = System(f"s{number}", parent, tuple(changes))
        present[system.name] = machines
        systems.append(system)
    return images, {system.name: system for system in systems}


def _resolve(images: dict[str, Image], systems: dict[str, System], top: str) -> Any:
    return resolve_system(systems, lambda name: image_chain(images, name), top)


@given(forests())
def test_a_chain_is_the_path_with_each_layer_on_the_one_before(images: dict[str, Image]) -> None:
    for name, image in images.items():
        path, chain = image_path(images, name), image_chain(images, name)
        assert [layer.digest for layer in chain] == [step.digest for step in path]
        assert [layer.parent for layer in chain] == [None, *(layer.digest for layer in chain[:-1])]
        assert path[-1] is image
        assert path[0].parent is None


@given(forests())
def test_a_parents_chain_is_the_beginning_of_the_childs(images: dict[str, Image]) -> None:
    for name, image in images.items():
        if image.parent is not None:
            assert image_chain(images, name)[:-1] == image_chain(images, image.parent)


@given(forests(), st.data())
def test_unique_bytes_are_at_most_the_sum_and_at_least_the_longest_chain(
    images: dict[str, Image], data: st.DataObject
) -> None:
    tops = data.draw(st.lists(st.sampled_from(sorted(images)), min_size=1, max_size=10))
    chains = [image_chain(images, top) for top in tops]
    unique = total_bytes(unique_layers(chains).values())
    assert max(map(total_bytes, chains)) <= unique <= sum(map(total_bytes, chains))
    assert unique == sum({layer.digest: layer.size_bytes for chain in chains for layer in chain}.values())


@given(forests(), st.data())
def test_unique_layers_do_not_depend_on_order_or_repetition(images: dict[str, Image], data: st.DataObject) -> None:
    tops = data.draw(st.lists(st.sampled_from(sorted(images)), max_size=10))
    again = data.draw(st.permutations(tops + tops))
    assert unique_layers(image_chain(images, top) for top in tops) == unique_layers(
        image_chain(images, top) for top in again
    )


@given(forests(), st.data())
def test_missing_and_held_layers_together_are_the_wanted_layers(images: dict[str, Image], data: st.DataObject) -> None:
    digests = sorted({image.digest for image in images.values()} | {_digest(10**6)})
    held = data.draw(st.frozensets(st.sampled_from(digests)))
    wanted = unique_layers(image_chain(images, name) for name in images)
    missing = missing_layers(wanted, held)
    assert missing.keys() == wanted.keys() - held
    assert missing_layers(wanted, held | missing.keys()) == {}
    assert missing_layers(missing, held) == missing


@given(forests(), st.data())
def test_a_parent_that_closes_a_cycle_is_found_from_every_descendant(
    images: dict[str, Image], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(images)))
    root = image_path(images, name)[0]
    looped = images | {root.name: Image(root.name, root.digest, root.size_bytes, images[name].virtual_size_bytes, name)}
    for other in images:
        if image_path(images, other)[0].name != root.name:
            assert image_chain(looped, other) == image_chain(images, other)
            continue
        # Along the new edge a virtual size may shrink first; both errors name a node, and neither search loops.
        with pytest.raises((ImageCycle, VirtualSizeShrinks), match=r"^VMImageNode i\d+: "):
            image_chain(looped, other)


@given(system_trees(), st.randoms(use_true_random=False))
def test_resolving_does_not_depend_on_the_order_of_documents_or_changes(
    trees: tuple[dict[str, Image], dict[str, System]], order: random.Random
) -> None:
    images, systems = trees
    shuffled = []
    for system in systems.values():
        changes = list(system.machines)
        order.shuffle(changes)
        shuffled.append(System(system.name, system.parent, tuple(changes)))
    order.shuffle(shuffled)
    for top in systems:
        assert _resolve(images, systems, top) == _resolve(images, {item.name: item for item in shuffled}, top)


@given(system_trees())
def test_a_child_differs_from_its_parent_only_in_the_machines_that_it_names(
    trees: tuple[dict[str, Image], dict[str, System]],
) -> None:
    images, systems = trees
    for system in systems.values():
        if system.parent is None:
            continue
        named = {change.name for change in system.machines}
        parent, child = _resolve(images, systems, system.parent), _resolve(images, systems, system.name)
        assert [m for m in parent.machines if m.name not in named] == [m for m in child.machines if m.name not in named]
        assert child.depth == parent.depth + 1 == len(system_path(systems, system.name))


@given(system_trees())
def test_a_removed_machine_is_absent_and_its_layers_are_not_needed(
    trees: tuple[dict[str, Image], dict[str, System]],
) -> None:
    images, systems = trees
    for system in systems.values():
        resolved = _resolve(images, systems, system.name)
        present = {machine.name for machine in resolved.machines}
        assert present.isdisjoint(change.name for change in system.machines if change.removed)
        assert {change.name for change in system.machines if not change.removed} <= present
        assert set(resolved.layers()) == {layer.digest for machine in resolved.machines for layer in machine.chain}


@given(system_trees())
def test_an_empty_child_and_a_squashed_root_are_the_same_state(
    trees: tuple[dict[str, Image], dict[str, System]],
) -> None:
    images, systems = trees
    for name in list(systems):
        resolved = _resolve(images, systems, name)
        squashed = System(
            "squashed", None, tuple(MachineChange(m.name, m.image, m.settings) for m in resolved.machines)
        )
        extended = systems | {"empty": System("empty", name), "squashed": squashed}
        assert _resolve(images, extended, "empty").machines == resolved.machines
        again = _resolve(images, extended, "squashed")
        assert [(m.name, m.chain) for m in again.machines] == [(m.name, m.chain) for m in resolved.machines]
        assert again.unique_bytes() == resolved.unique_bytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from("xyz"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


@given(json_objects, json_objects)
def test_a_patch_applied_twice_is_a_patch_applied_once(base: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge_patch(base, patch)
    assert merge_patch(once, patch) == once


@given(json_objects, json_objects)
def test_a_patch_defines_every_field_that_it_names(base: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = merge_patch(base, patch)
    for key, value in patch.items():
        assert (key in merged) == (value is not None)
        if value is not None and not isinstance(value, dict):
            assert merged[key] == value
    for key in base.keys() - patch.keys():
        assert merged[key] == base[key]


@given(json_objects)
def test_the_empty_patch_changes_nothing(base: dict[str, Any]) -> None:
    assert merge_patch(base, {}) == base


@given(json_objects, json_objects, json_objects)
def test_patches_of_different_fields_can_be_applied_in_any_order(
    base: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    apart = {key: value for key, value in second.items() if key not in first}
    assert merge_patch(merge_patch(base, first), apart) == merge_patch(merge_patch(base, apart), first)


@given(json_objects, patches, patches)
def test_joined_patches_equal_the_patches_applied_in_sequence(
    base: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    assert apply_patch(base, join_patches(first, second)) == apply_patch(apply_patch(base, first), second)


@given(json_objects, patches, patches, patches)
def test_joining_patches_is_associative_in_effect(
    base: dict[str, Any], first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]
) -> None:
    left = join_patches(join_patches(first, second), third)
    right = join_patches(first, join_patches(second, third))
    assert apply_patch(base, left) == apply_patch(base, right)


@given(json_objects, patches)
def test_a_patch_of_settings_applied_twice_is_applied_once(base: dict[str, Any], patch: dict[str, Any]) -> None:
    once = apply_patch(base, patch)
    assert apply_patch(once, patch) == once


@given(json_objects, patches)
def test_a_removed_path_that_is_not_merged_again_is_gone(base: dict[str, Any], patch: dict[str, Any]) -> None:
    result = apply_patch(base, {"remove": patch.get("remove", [])})
    for path in patch.get("remove", []):
        at: Any = result
        for key in path.split("."):
            at = at.get(key) if isinstance(at, dict) else None
        assert at is None


def value_at(found: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


@given(settings, settings, unset)
def test_what_is_unset_is_only_what_the_child_sets_itself(
    parent: dict[str, Any], child: dict[str, Any], dropped: list[str]
) -> None:
    merged = merge_settings(parent, child, dropped)
    for name in dropped:
        found, own = value_at(merged, UNSET[name]), value_at(child, UNSET[name])
        assert found == (join_patches({}, own) if name == "patch" and own is not None else own)


@given(settings, settings, unset)
def test_what_is_not_unset_and_not_set_is_inherited(
    parent: dict[str, Any], child: dict[str, Any], dropped: list[str]
) -> None:
    merged = merge_settings(parent, child, dropped)
    for name, path in UNSET.items():
        if name not in dropped and value_at(child, path) is None:
            assert value_at(merged, path) == value_at(parent, path)


@given(settings, unset)
def test_unsetting_twice_is_unsetting_once_and_an_empty_child_changes_nothing(
    parent: dict[str, Any], dropped: list[str]
) -> None:
    once = merge_settings(parent, {}, dropped)
    assert merge_settings(once, {}, dropped) == once
    assert merge_settings(parent, {}) == parent


@given(settings, settings, settings, unset)
def test_merging_leaves_its_arguments_as_they_are(
    first: dict[str, Any], second: dict[str, Any], third: dict[str, Any], dropped: list[str]
) -> None:
    before = repr((first, second, third))
    merge_settings(merge_settings(first, second, dropped), third, dropped)
    assert repr((first, second, third)) == before
