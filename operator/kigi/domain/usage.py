"""Users of a node of a tree: the objects that depend on it.

A used node is not deleted before its last user is gone. Nodes whose parents form a cycle cannot be used: they do not
count as each other's users, because otherwise none of them could be deleted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kigi.domain import kinds
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.systems import System
from kigi.domain.tree_names import place_of

SHOWN = 8
"""Users that a message names; it counts the others."""


@dataclass(frozen=True, slots=True, order=True)
class User:
    """An object that names another one."""

    kind: str
    name: str
    namespace: str = ""
    """Its namespace, if that is not the one of the object that it names."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class _Node(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def parent(self) -> str | None: ...


def images_of(system: System) -> frozenset[str]:
    """Images that a state itself names, for boot disks and extra disks; not those that it inherits."""
    named = {change.image for change in system.machines}
    named.update(disk.image for change in system.machines for disk in change.disks)
    return frozenset(name for name in named if name is not None)


def users_of_images(images: Mapping[str, Image], systems: Mapping[str, System]) -> dict[str, tuple[User, ...]]:
    """Users of each used image, sorted: its children, and the states that name it. O(nodes)."""
    users: dict[str, set[User]] = defaultdict(set)
    for parent, children in _children(images).items():
        users[parent].update(User(kinds.IMAGE, child) for child in children)
    for system in systems.values():
        for image in images_of(system):
            users[image].add(User(kinds.SYSTEM, system.name))
    return {name: tuple(sorted(found)) for name, found in users.items()}


def users_of_systems(systems: Mapping[str, System], named: Mapping[User, Iterable[str]]) -> dict[str, tuple[User, ...]]:
    """Users of each used state, sorted: its children, and the deployments, prefetches and captures that name it.

    ``named``: the states that each of these names.
    """
    users: dict[str, set[User]] = defaultdict(set)
    for parent, children in _children(systems).items():
        users[parent].update(User(kinds.SYSTEM, child) for child in children)
    for user, names in named.items():
        for system in names:
            users[system].add(user)
    return {name: tuple(sorted(found)) for name, found in users.items()}


def format_users(users: Iterable[User]) -> str:
    """The first SHOWN users of the namespace, and the numbers of the others; no names of other namespaces."""
    found = list(users)
    own = [str(user) for user in found if not user.namespace]
    foreign = [user for user in found if user.namespace]
    parts = own[:SHOWN]
    if len(own) > SHOWN:
        parts.append(f"and {len(own) - SHOWN} more")
    for kind, number in sorted(Counter(user.kind for user in foreign).items()):
        parts.append(_count(number, kind))
    if foreign:
        parts[-1] += f" in {_count(len({user.namespace for user in foreign}), 'other namespace')}"
    return ", ".join(parts)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "es" if thing.endswith("ch") else "s")


def _children(nodes: Mapping[str, _Node]) -> dict[str, set[str]]:
    """Children of each node, without those in the same cycle. O(nodes)."""
    cycles = _in_cycles(nodes)
    children: dict[str, set[str]] = defaultdict(set)
    for node in nodes.values():
        if node.parent is not None and node.name not in cycles:
            children[node.parent].add(node.name)
    return children


def _in_cycles(nodes: Mapping[str, _Node]) -> frozenset[str]:
    """Nodes that are their own ancestors."""
    done: set[str] = set()
    found: set[str] = set()
    for start in nodes:
        path: dict[str, int] = {}
        name: str | None = start
        while name is not None and name in nodes and name not in done and name not in path:
            path[name] = len(path)
            name = nodes[name].parent
        if name is not None and name in path:
            found.update(each for each, place in path.items() if place >= path[name])
        done.update(path)
    return frozenset(found)


# Bytes.

LayerKey = tuple[str | None, Digest]
"""Repository that the image names, and digest: one object in one bucket."""
NodeKey = tuple[str, str]
"""Namespace and name of an image."""


def freed_layers(images: Mapping[NodeKey, Image], removed: Iterable[NodeKey]) -> dict[LayerKey, int]:
    """Size in bytes of each layer that only ``removed`` images use, and that the repository then no longer needs.

    ``images``: every image of the cluster, because two of different names may have the same layer. A child's header
    names its parent's layer, so the layer of a remaining image's parent is not freed.
    """
    gone = set(removed)
    kept: set[LayerKey] = set()
    for key, image in images.items():
        if key not in gone:
            kept.add((image.repository, image.digest))
            parent = images.get(place_of(key[0], image.parent)) if image.parent is not None else None
            if parent is not None:
                kept.add((parent.repository, parent.digest))
    freed = {(images[key].repository, images[key].digest): images[key].size_bytes for key in gone if key in images}
    return {layer: size for layer, size in freed.items() if layer not in kept}


def freed_bytes(images: Mapping[NodeKey, Image], removed: Iterable[NodeKey]) -> int:
    """Sum of ``freed_layers``."""
    return sum(freed_layers(images, removed).values())


def unused_without(images: Mapping[str, Image], systems: Mapping[str, System], without: str) -> tuple[str, ...]:
    """Images whose last user is the state ``without``, or another image of the result. Children come first."""
    users = {name: set(found) for name, found in users_of_images(images, systems).items()}
    used = {name for name, found in users.items() if found}
    gone: list[str] = []
    leaving = [User(kinds.SYSTEM, without)]
    while leaving:
        user = leaving.pop()
        for name in sorted(name for name, found in users.items() if user in found):
            users[name].discard(user)
            if not users[name] and name in used and name in images:
                gone.append(name)
                leaving.append(User(kinds.IMAGE, name))
    return tuple(gone)
