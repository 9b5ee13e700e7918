from __future__ import annotations

import gc
import weakref

import pytest

from kigi.domain.kinds import IMAGE, SYSTEM
from kigi.domain.layers import MAX_DEPTH, Chain
from kigi.domain.systems import ResolvedSystem
from kigi.domain.tree_names import TreeNode, is_foreign, name_in, node_of, place_of, renamed
from kigi.errors import ChainTooDeep, ImageCycle, KigiError, RefNotPermitted, RefNotReady, SpecInvalid, SystemCycle
from tests.support.forests import SIZE, ForestWorld

LIBRARY, TENANT = "library", "class-a"
SECRET = "zzsecret"
"""Part of every name in the library that the tenant does not write."""


@pytest.fixture
def world() -> ForestWorld:
    """The library has ``office`` with two machines, below it ``solved``, and an image that no state names."""
    world = ForestWorld()
    world.image(LIBRARY, f"{SECRET}-base")
    world.image(LIBRARY, f"{SECRET}-mail", f"{SECRET}-base")
    world.image(LIBRARY, f"{SECRET}-other", f"{SECRET}-base")
    world.image(LIBRARY, f"{SECRET}-dns", f"{SECRET}-base")
    world.system(LIBRARY, f"{SECRET}-root", dns=f"{SECRET}-dns", mail=f"{SECRET}-base")
    world.system(LIBRARY, "office", f"{SECRET}-root", mail=f"{SECRET}-mail")
    world.system(LIBRARY, "solved", "office", mail=f"{SECRET}-dns")
    world.image(TENANT, "own")
    return world


def resolved(found: ResolvedSystem | KigiError) -> ResolvedSystem:
    assert isinstance(found, ResolvedSystem), found
    return found


def chain(found: Chain | KigiError) -> Chain:
    assert not isinstance(found, KigiError), found
    return found


def share(world: ForestWorld, name: str = "office", *, descendants: bool = False) -> None:
    world.grant(LIBRARY, [TENANT], (SYSTEM, name, descendants))


def test_names_of_other_namespaces_have_their_namespace() -> None:
    assert name_in("a", None, "x") == name_in("a", "a", "x") == "x"
    assert name_in("a", "b", "x") == "b/x"
    assert not is_foreign("x")
    assert is_foreign("b/x")
    assert place_of("a", "x") == ("a", "x")
    assert place_of("a", "b/x") == ("b", "x")
    assert renamed("x", "b", "a") == "b/x"
    assert renamed("a/x", "b", "a") == "x"
    assert renamed("c/x", "b", "a") == "c/x"
    assert node_of(IMAGE, "a", "b/x") == TreeNode(IMAGE, "b", "x")


def test_a_granted_state_has_the_same_machines_and_chains_as_at_home(world: ForestWorld) -> None:
    share(world)
    there = resolved(world.forest.trees(LIBRARY).system("office"))
    here = resolved(world.forest.trees(TENANT).system(f"{LIBRARY}/office"))
    assert here.name == f"{LIBRARY}/office"
    assert [(m.name, m.chain) for m in here.machines] == [(m.name, m.chain) for m in there.machines]
    assert here.hidden_images == {f"{LIBRARY}/{SECRET}-{name}" for name in ("base", "dns", "mail")}


def test_without_a_grant_and_without_the_object_the_error_is_the_same(world: ForestWorld) -> None:
    here = world.forest.trees(TENANT)
    forbidden = [here.system(f"{LIBRARY}/{name}") for name in ("office", "missing")]
    forbidden.append(here.system("nowhere/office"))
    share(world, "missing")
    forbidden.append(world.forest.trees(TENANT).system(f"{LIBRARY}/missing"))
    assert {type(error) for error in forbidden} == {RefNotPermitted}
    texts = {str(error).split(" ", 2)[2] for error in forbidden}
    assert len(texts) == 1, texts


def test_a_child_in_another_namespace_adds_its_changes(world: ForestWorld) -> None:
    share(world)
    world.system(TENANT, "ours", f"{LIBRARY}/office", mail="own", web="own")
    state = resolved(world.forest.trees(TENANT).system("ours"))
    assert state.depth == 3
    assert [(m.name, m.image) for m in state.machines] == [
        ("dns", f"{LIBRARY}/{SECRET}-dns"),
        ("mail", "own"),
        ("web", "own"),
    ]
    assert "own" not in state.hidden_images


def test_an_image_that_the_namespace_names_itself_is_not_hidden(world: ForestWorld) -> None:
    share(world)
    name = f"{LIBRARY}/{SECRET}-mail"
    world.system(TENANT, "ours", f"{LIBRARY}/office", web=name)
    assert name not in resolved(world.forest.trees(TENANT).system("ours")).hidden_images


def test_a_grant_covers_ancestors_and_images_and_descendants_if_it_says_so(world: ForestWorld) -> None:
    covered = {"office", f"{SECRET}-root", f"{SECRET}-mail", f"{SECRET}-base", f"{SECRET}-dns"}

    def allowed() -> set[str]:
        nodes = [TreeNode(SYSTEM, LIBRARY, name) for name in world.systems[LIBRARY]]
        nodes += [TreeNode(IMAGE, LIBRARY, name) for name in world.images[LIBRARY]]
        return {node.name for node in nodes if world.forest.permits(TENANT, node)}

    assert allowed() == set()
    share(world)
    assert allowed() == covered
    share(world, descendants=True)
    assert allowed() == covered | {"solved"}
    world.grant(LIBRARY, [TENANT], (IMAGE, f"{SECRET}-base", True))
    assert allowed() == covered | {"solved", f"{SECRET}-other"}
    world.revoke(LIBRARY)
    assert allowed() == set()


def test_a_grant_of_an_image_does_not_share_states_of_its_name(world: ForestWorld) -> None:
    world.grant(LIBRARY, [TENANT], (IMAGE, "office"))
    assert isinstance(world.forest.trees(TENANT).system(f"{LIBRARY}/office"), RefNotPermitted)


def test_a_grant_by_the_referrers_namespace_or_for_another_one_permits_nothing(world: ForestWorld) -> None:
    world.grant(TENANT, [TENANT, LIBRARY], (SYSTEM, "office", True))
    world.grant(LIBRARY, ["class-b"], (SYSTEM, "office", True))
    assert isinstance(world.forest.trees(TENANT).system(f"{LIBRARY}/office"), RefNotPermitted)


def test_a_namespace_whose_labels_are_not_known_may_use_nothing(world: ForestWorld) -> None:
    share(world)
    world.unknown.add(TENANT)
    assert isinstance(world.forest.trees(TENANT).system(f"{LIBRARY}/office"), RefNotPermitted)


def test_every_field_that_refers_to_an_image_or_state_is_checked(world: ForestWorld) -> None:
    world.image(TENANT, "child", f"{LIBRARY}/{SECRET}-mail")
    world.system(TENANT, "names-image", web=f"{LIBRARY}/{SECRET}-mail")
    world.system(TENANT, "names-parent", f"{LIBRARY}/office")
    here = world.forest.trees(TENANT)
    found = [here.chain("child"), here.system("names-image"), here.system("names-parent")]
    found.append(here.chain(f"{LIBRARY}/{SECRET}-mail"))
    assert {type(error) for error in found} == {RefNotPermitted}
    share(world)
    here = world.forest.trees(TENANT)
    assert len(chain(here.chain("child"))) == 3
    assert resolved(here.system("names-image")).machines[0].chain == chain(here.chain(f"{LIBRARY}/{SECRET}-mail"))


def test_a_withdrawn_grant_and_a_changed_image_take_effect_at_the_next_question(world: ForestWorld) -> None:
    share(world)
    world.system(TENANT, "ours", f"{LIBRARY}/office")
    first = resolved(world.forest.trees(TENANT).system("ours"))
    world.system(LIBRARY, "office", mail=f"{SECRET}-other")
    second = resolved(world.forest.trees(TENANT).system("ours"))
    assert first.machines != second.machines
    world.revoke(LIBRARY)
    assert isinstance(world.forest.trees(TENANT).system("ours"), RefNotPermitted)


def test_each_reference_is_checked_between_its_own_two_namespaces(world: ForestWorld) -> None:
    """The tenant shares its child of the library's state with a third namespace, which has no grant of the library."""
    share(world)
    world.system(TENANT, "ours", f"{LIBRARY}/office")
    world.grant(TENANT, ["third"], (SYSTEM, "ours"))
    world.system("third", "theirs", f"{TENANT}/ours")
    assert len(resolved(world.forest.trees("third").system("theirs")).machines) == 2
    assert isinstance(world.forest.trees("third").system(f"{LIBRARY}/office"), RefNotPermitted)
    world.revoke(LIBRARY)
    error = world.forest.trees("third").system("theirs")
    assert isinstance(error, RefNotReady)
    assert LIBRARY not in str(error)


@pytest.mark.parametrize("damage", ["image missing", "image invalid", "parent missing", "parent invalid", "shrinks"])
def test_an_error_of_a_granted_tree_names_nothing_of_it(world: ForestWorld, damage: str) -> None:
    world.image(TENANT, "child", f"{LIBRARY}/{SECRET}-mail")
    world.system(TENANT, "ours", f"{LIBRARY}/office")
    world.system(TENANT, "names-image", web=f"{LIBRARY}/{SECRET}-mail")
    share(world)
    invalid = SpecInvalid(f"{SECRET}: secret")
    match damage:
        case "image missing":
            del world.images[LIBRARY][f"{SECRET}-base"]
        case "image invalid":
            world.images[LIBRARY][f"{SECRET}-base"] = invalid
        case "parent missing":
            del world.systems[LIBRARY][f"{SECRET}-root"]
        case "parent invalid":
            world.systems[LIBRARY][f"{SECRET}-root"] = invalid
        case "shrinks":
            world.image(LIBRARY, f"{SECRET}-base", size=SIZE * 2)
    world.forest.forget(LIBRARY)
    here = world.forest.trees(TENANT)
    states = [here.system("ours"), here.system(f"{LIBRARY}/office")]
    images = [here.chain("child"), here.system("names-image")]
    for error in states if damage.startswith("parent") else states + images:
        assert isinstance(error, RefNotReady)
        assert SECRET not in str(error).replace(f"{LIBRARY}/{SECRET}-mail", "")


def test_a_cycle_through_two_namespaces_is_an_error_of_both(world: ForestWorld) -> None:
    for kind in (IMAGE, SYSTEM):
        world.grant(LIBRARY, [TENANT], (kind, f"{SECRET}-loop", True))
        world.grant(TENANT, [LIBRARY], (kind, "loop", True))
    world.image(TENANT, "loop", f"{LIBRARY}/{SECRET}-loop")
    world.image(LIBRARY, f"{SECRET}-loop", f"{TENANT}/loop")
    world.system(TENANT, "loop", f"{LIBRARY}/{SECRET}-loop")
    world.system(LIBRARY, f"{SECRET}-loop", f"{TENANT}/loop")
    world.image(TENANT, "below", "loop")
    for namespace, name in ((TENANT, "loop"), (LIBRARY, f"{SECRET}-loop"), (TENANT, "below")):
        assert isinstance(world.forest.trees(namespace).chain(name), ImageCycle)
    for namespace, name in ((TENANT, "loop"), (LIBRARY, f"{SECRET}-loop")):
        assert isinstance(world.forest.trees(namespace).system(name), SystemCycle)


def test_paths_that_alternate_between_namespaces_have_the_same_limit(world: ForestWorld) -> None:
    """A path of thousands of references between namespaces must not exhaust the stack either."""
    world.grant("x", ["y"], *((IMAGE, f"i{n}") for n in range(0, 3000, 2)))
    world.grant("y", ["x"], *((IMAGE, f"i{n}") for n in range(1, 3000, 2)))
    for number in range(3000):
        parent = f"{'yx'[number % 2]}/i{number - 1}" if number else None
        world.images.setdefault("xy"[number % 2], {})[f"i{number}"] = world_image(number, parent)
    world.forest.forget("x")
    world.forest.forget("y")
    assert isinstance(world.forest.trees("y").chain("i2999"), ChainTooDeep)
    assert isinstance(world.forest.trees("x").chain(f"i{MAX_DEPTH}"), ChainTooDeep)
    assert len(chain(world.forest.trees("y").chain(f"i{MAX_DEPTH - 1}"))) == MAX_DEPTH


def world_image(number: int, parent: str | None) -> object:
    world = ForestWorld()
    world.image("x", f"i{number}", parent)
    return world.images["x"][f"i{number}"]


def test_namespaces_that_nothing_refers_to_any_more_leave_no_trace(world: ForestWorld) -> None:
    for number in range(50):
        world.system(TENANT, "ours", f"ns{number}/x")
        world.forest.trees(TENANT).system("ours")
    del world.systems[TENANT]["ours"]
    world.forest.forget(TENANT)
    world.forest.trees(TENANT)
    held = weakref.ref(world.forest.trees(TENANT))
    assert not world.forest._users
    assert set(world.forest._trees) == {TENANT}
    world.forest.forget(TENANT)
    gc.collect()
    assert held() is None
