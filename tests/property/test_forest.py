"""Laws of references between namespaces, against a model that walks objects by their full names."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from kigi.domain.grants import Grant, GrantTarget
from kigi.domain.images import Image
from kigi.domain.kinds import IMAGE, SYSTEM
from kigi.domain.layers import Digest
from kigi.domain.systems import ResolvedSystem, System
from kigi.domain.tree_names import TreeNode, is_foreign, node_of
from kigi.domain.usage import images_of
from kigi.errors import KigiError
from tests.support.forests import ForestWorld, Only

SPACES = ("na", "nb", "nc")
NAMES = ("x0", "x1", "x2")


def names() -> st.SearchStrategy[str]:
    """A name of the home namespace, or of any namespace."""
    return st.one_of(st.sampled_from(NAMES), st.builds("{}/{}".format, st.sampled_from(SPACES), st.sampled_from(NAMES)))


images = st.builds(
    lambda ns, name, parent, size: ("image", ns, name, parent, size),
    *(st.sampled_from(SPACES), st.sampled_from(NAMES), st.none() | names(), st.sampled_from([512, 1024])),
)
states = st.builds(
    lambda ns, name, parent, first, second: ("system", ns, name, parent, {"m": first, "n": second}),
    *(st.sampled_from(SPACES), st.sampled_from(NAMES), st.none() | names(), names(), names()),
)
targets = st.builds(GrantTarget, st.sampled_from([IMAGE, SYSTEM]), st.sampled_from(NAMES), st.booleans())
grants = st.builds(
    lambda ns, to, what: ("grant", ns, to, what),
    *(st.sampled_from(SPACES), st.sets(st.sampled_from(SPACES)), st.lists(targets, min_size=1, max_size=3)),
)
deletions = st.builds(
    lambda kind, ns, name: (kind, ns, name),
    *(st.sampled_from(["no-image", "no-system", "no-grants"]), st.sampled_from(SPACES), st.sampled_from(NAMES)),
)
changes = st.lists(st.one_of(images, images, states, grants, grants, deletions), min_size=5, max_size=40)


ROOTS: list[tuple] = [  # type: ignore[type-arg]
    change
    for ns in SPACES
    for change in (
        ("image", ns, "x0", None, 512),
        ("system", ns, "x0", None, {"m": "x0", "n": "x0"}),
        ("grant", ns, set(SPACES), [GrantTarget(IMAGE, "x0", True), GrantTarget(SYSTEM, "x0", True)]),
    )
]
"""A root of both trees in each namespace, with all that is below it, for all namespaces."""


def own_form(ns: str, name: str | None) -> str | None:
    """The name as the API's objects give it: without the namespace if it is their own."""
    return name.removeprefix(f"{ns}/") if name is not None else None


def apply(world: ForestWorld, change: tuple) -> None:  # type: ignore[type-arg]
    match change:
        case ("image", ns, name, parent, size):
            world.image(ns, name, own_form(ns, parent), size)
        case ("system", ns, name, parent, machines):
            world.system(ns, name, own_form(ns, parent), **{m: own_form(ns, image) for m, image in machines.items()})
        case ("grant", ns, to, what):
            world.grants.setdefault(ns, []).append(Grant(Only(frozenset(to)), tuple(what)))
            world.forest.forget(ns)
        case ("no-image", ns, name):
            world.images.get(ns, {}).pop(name, None)
            world.forest.forget(ns)
        case ("no-system", ns, name):
            world.systems.get(ns, {}).pop(name, None)
            world.forest.forget(ns)
        case ("no-grants", ns, _):
            world.revoke(ns)


class Model:
    """The rules, by full names and without memory."""

    def __init__(self, world: ForestWorld) -> None:
        self.world = world

    def get(self, node: TreeNode) -> Image | System | None:
        held = self.world.images if node.kind == IMAGE else self.world.systems
        found = held.get(node.namespace, {}).get(node.name)
        assert not isinstance(found, KigiError)
        return found

    def nodes(self, ns: str) -> set[TreeNode]:
        found = {TreeNode(IMAGE, ns, name) for name in self.world.images.get(ns, {})}
        return found | {TreeNode(SYSTEM, ns, name) for name in self.world.systems.get(ns, {})}

    def up(self, node: TreeNode) -> set[TreeNode]:
        """What the node names in its own namespace."""
        found = self.get(node)
        named: set[TreeNode] = set()
        if found is not None and found.parent is not None:
            named.add(node_of(node.kind, node.namespace, found.parent))
        if isinstance(found, System):
            named |= {node_of(IMAGE, node.namespace, image) for image in images_of(found)}
        return {each for each in named if each.namespace == node.namespace}

    def permits(self, home: str, node: TreeNode) -> bool:
        if home == node.namespace:
            return True
        covered: set[TreeNode] = set()
        for grant in self.world.grants.get(node.namespace, ()):
            if grant.selector.matches({"kubernetes.io/metadata.name": home}):
                for target in grant.targets:
                    found = {TreeNode(target.kind, node.namespace, target.name)}
                    while target.descendants:
                        more = {
                            each
                            for each in self.nodes(node.namespace) - found
                            if each.kind == target.kind
                            and any(up.kind == each.kind and up in found for up in self.up(each))
                        }
                        if not more:
                            break
                        found |= more
                    while more := {up for each in found for up in self.up(each)} - found:
                        found |= more
                    covered |= found
        return node in covered and self.get(node) is not None

    def path(self, home: str, node: TreeNode) -> list[TreeNode] | None:
        """From the node to its root; None if a reference on it is not permitted, missing or in a cycle."""
        path: list[TreeNode] = []
        referrer = home
        at: TreeNode | None = node
        while at is not None:
            found = self.get(at)
            if found is None or at in path or not self.permits(referrer, at):
                return None
            path.append(at)
            referrer = at.namespace
            at = node_of(at.kind, at.namespace, found.parent) if found.parent is not None else None
        return path

    def chain(self, home: str, node: TreeNode) -> list[Digest] | None:
        path = self.path(home, node)
        layers = [self.get(each) for each in path or ()]
        sizes = [image.virtual_size_bytes for image in layers if isinstance(image, Image)]
        if path is None or sizes != sorted(sizes, reverse=True):
            return None
        return [image.digest for image in reversed(layers) if isinstance(image, Image)]

    def state(self, home: str, node: TreeNode) -> dict[str, list[Digest]] | None:
        """Chain of each machine. A state resolves only if its ancestors in other namespaces resolve there."""
        path = self.path(home, node)
        if path is None:
            return None
        machines: dict[str, tuple[str, str]] = {}
        for each in reversed(path):
            found = self.get(each)
            assert isinstance(found, System)
            for machine in found.machines:
                assert machine.image is not None
                machines[machine.name] = (each.namespace, machine.image)
        chains = {name: self.chain(ns, node_of(IMAGE, ns, image)) for name, (ns, image) in machines.items()}
        border = next((each for each in path if each.namespace != home), None)
        if border is not None and border != node and self.state(border.namespace, border) is None:
            return None
        if border == node and home != node.namespace and self.state(node.namespace, node) is None:
            return None
        if any(chain is None for chain in chains.values()):
            return None
        return {name: chain for name, chain in chains.items() if chain is not None}


def questions() -> list[tuple[str, TreeNode]]:
    return [
        (home, TreeNode(kind, ns, name))
        for home in SPACES
        for kind in (IMAGE, SYSTEM)
        for ns in SPACES
        for name in NAMES
    ]


def compare(world: ForestWorld) -> None:
    model = Model(world)
    for home, node in questions():
        trees = world.forest.trees(home)
        name = node.name if node.namespace == home else f"{node.namespace}/{node.name}"
        assert world.forest.permits(home, node) == model.permits(home, node), (home, node)
        if node.kind == IMAGE:
            chain, expected = trees.chain(name), model.chain(home, node)
            assert (None if isinstance(chain, KigiError) else [layer.digest for layer in chain]) == expected, (
                home,
                node,
            )
            assert_silent(world, home, name, chain)
        else:
            state, machines = trees.system(name), model.state(home, node)
            found = None
            if isinstance(state, ResolvedSystem):
                found = {machine.name: [layer.digest for layer in machine.chain] for machine in state.machines}
            assert found == machines, (home, node, state)
            assert_silent(world, home, name, state)


def assert_silent(world: ForestWorld, home: str, asked: str, found: object) -> None:
    """Whatever names a node of another namespace, the home namespace wrote itself."""
    own_images = [image for image in world.images.get(home, {}).values() if isinstance(image, Image)]
    own_states = [state for state in world.systems.get(home, {}).values() if isinstance(state, System)]
    written = {image for state in own_states for image in images_of(state)}
    named: set[str] = set()
    if isinstance(found, KigiError):
        named = set(re.findall(r"n[abc]/x\d", str(found)))
        written |= {asked, *(node.parent or "" for node in (*own_images, *own_states))}
    elif isinstance(found, ResolvedSystem):
        named = {found.shown_image(machine.image) for machine in found.machines}
    assert {name for name in named if is_foreign(name)} <= written, (home, asked, found)


@given(changes)
@settings(deadline=None)
def test_the_forest_follows_the_model_after_every_few_changes(history: list[tuple]) -> None:  # type: ignore[type-arg]
    world = ForestWorld()
    for number, change in enumerate([*ROOTS, *history]):
        apply(world, change)
        if number % 7 == 0:
            compare(world)
    compare(world)


@given(changes, st.one_of(images, states, grants, deletions))
@settings(deadline=None)
def test_a_change_gives_exactly_the_answers_that_changed(history: list[tuple], last: tuple) -> None:  # type: ignore[type-arg]
    world = ForestWorld()
    for change in [*ROOTS, *history]:
        apply(world, change)
    before = {question: world.forest.permits(*question) for question in questions()}
    apply(world, last)
    changed = set(world.forest.changed_answers(about=last[1]))
    after = {question: Model(world).permits(*question) for question in questions()}
    assert changed == {question for question in questions() if before[question] != after[question]}
    assert world.forest.changed_answers() == []
