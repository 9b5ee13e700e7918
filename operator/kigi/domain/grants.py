"""Grants: which trees of one namespace the objects of other namespaces may use.

A grant covers each node that it names, the ancestors of that node and their images, and with ``descendants`` the
descendants of the node, too. Several grants add up. Each reference is checked between the namespaces of the two objects
that it connects: a namespace that may use a state may share a child of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kigi.domain import kinds
from kigi.domain.images import Image
from kigi.domain.systems import System
from kigi.domain.tree_names import is_foreign
from kigi.domain.usage import images_of


class NamespaceSelector(Protocol):
    """Selects namespaces by their labels."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a namespace with these labels is selected."""
        ...


@dataclass(frozen=True, slots=True)
class GrantTarget:
    """One entry of a grant: a node of a tree in the grant's namespace."""

    kind: str
    name: str
    descendants: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """A TreeGrant."""

    selector: NamespaceSelector
    targets: tuple[GrantTarget, ...]


LocalNode = tuple[str, str]
"""(kind, name) of an image or a state of the grants' namespace."""


class LocalTrees(Protocol):
    """The valid nodes of one namespace, with their children of the same namespace."""

    def images(self) -> Mapping[str, Image]:
        """Images by name."""
        ...

    def systems(self) -> Mapping[str, System]:
        """States by name."""
        ...

    @property
    def covered(self) -> dict[object, frozenset[LocalNode]]:
        """Memory of ``covered``: the trees are immutable."""
        ...

    def children_of(self, kind: str, name: str) -> Iterable[str]:
        """Names of the node's children."""
        ...


def permitted(grants: Iterable[Grant], labels: Mapping[str, str] | None, trees: LocalTrees, node: LocalNode) -> bool:
    """Whether a namespace with these labels may use the node; None: the namespace is unknown, and may use nothing.

    O(grants x targets), and once for each target what it covers.
    """
    if labels is None:
        return False
    return any(
        node in covered(trees, target) for grant in grants if grant.selector.matches(labels) for target in grant.targets
    )


def covered(trees: LocalTrees, target: GrantTarget) -> frozenset[LocalNode]:
    """Every node of the namespace that the target covers, whether it exists or not. O(nodes covered), once."""
    if target not in trees.covered:
        found: set[LocalNode] = set()
        for name in _with_descendants(trees, target):
            _add_path(trees, (target.kind, name), found)
        trees.covered[target] = frozenset(found)
    return trees.covered[target]


def _with_descendants(trees: LocalTrees, target: GrantTarget) -> Iterable[str]:
    seen, waiting = {target.name}, [target.name]
    while waiting:
        name = waiting.pop()
        yield name
        for child in trees.children_of(target.kind, name) if target.descendants else ():
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def _add_path(trees: LocalTrees, start: LocalNode, found: set[LocalNode]) -> None:
    """Adds the node, its ancestors, the images that they name, and the ancestors of those."""
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node in found or is_foreign(node[1]):
            continue  # another namespace's own grants decide about its nodes
        found.add(node)
        kind, name = node
        if kind == kinds.SYSTEM and (state := trees.systems().get(name)) is not None:
            waiting.extend((kinds.IMAGE, image) for image in images_of(state))
            waiting.extend([(kind, state.parent)] if state.parent is not None else ())
        elif kind == kinds.IMAGE and (image := trees.images().get(name)) is not None and image.parent is not None:
            waiting.append((kind, image.parent))
