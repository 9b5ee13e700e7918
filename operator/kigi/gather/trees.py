"""Views of VMImageNodes and SystemNodes, and the users of each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from kigi.domain import kinds
from kigi.domain.images import Image
from kigi.domain.layers import Chain
from kigi.domain.systems import ResolvedSystem
from kigi.domain.tree_names import TreeNode
from kigi.domain.usage import User, users_of_systems
from kigi.errors import ImageCycle, KigiError, SystemCycle
from kigi.mirror.references import kind_of
from kigi.mirror.store import Mirror
from kigi.planning.view import ImageView, SystemView


def gather_image(mirror: Mirror, namespace: str, name: str, now: datetime) -> ImageView | None:
    """The view of one image; None if it does not exist any more."""
    record = mirror.images.get(namespace, name)
    if record is None:
        return None
    chain = mirror.chain(namespace, name)
    users = image_users(mirror, namespace, name)
    return ImageView(
        generation=record.meta.generation,
        chain=chain,
        children=mirror.trees(namespace).children(name)
        + sum(u.kind == kinds.IMAGE and u.namespace != "" for u in users),
        image=record.image if isinstance(record.image, Image) else None,
        held=isinstance(record.image, Image) and bool(mirror.holders.get(record.image.digest)),
        cached_nodes=0 if isinstance(chain, KigiError) else _cached_nodes(mirror, chain),
        now=now,
        old_status=record.status,
        deleting=record.meta.deleting,
        users=users,
        own_layers=mirror.trees(namespace).own_depth(name),
    )


def _cached_nodes(mirror: Mirror, chain: Chain) -> int:
    """Number of nodes that hold every layer of the chain."""
    holders = [mirror.holders.get(layer.digest, set()) for layer in chain]
    return len(set.intersection(*holders)) if all(holders) else 0


def gather_system(mirror: Mirror, namespace: str, name: str, now: datetime) -> SystemView | None:
    """The view of one state; None if it does not exist any more."""
    record = mirror.systems.get(namespace, name)
    if record is None:
        return None
    parent = getattr(record.system, "parent", None)
    above = mirror.resolved(namespace, parent) if parent is not None else None
    return SystemView(
        generation=record.meta.generation,
        system=mirror.resolved(namespace, name),
        parent=above if isinstance(above, ResolvedSystem) else None,
        now=now,
        old_status=record.status,
        deleting=record.meta.deleting,
        users=system_users(mirror, namespace, name),
    )


def image_users(mirror: Mirror, namespace: str, name: str) -> tuple[User, ...]:
    """The image's children, the states that name it, prefetches of it, and captures of disks based on it. O(users)."""
    node = TreeNode(kinds.IMAGE, namespace, name)
    own = mirror.trees(namespace).image_users(name)
    return tuple(
        sorted({*own, *_own_users(mirror, node, {kinds.PREFETCH, kinds.CAPTURE}), *foreign_users(mirror, node)})
    )


def system_users(mirror: Mirror, namespace: str, name: str) -> tuple[User, ...]:
    """The state's children, deployments, instances, prefetches and captures that use it. O(states of the namespace)."""
    node = TreeNode(kinds.SYSTEM, namespace, name)
    children = users_of_systems(mirror.trees(namespace).systems(), {}).get(name, ())
    others = _own_users(mirror, node, {kinds.DEPLOYMENT, kinds.INSTANCE, kinds.PREFETCH, kinds.CAPTURE})
    return tuple(sorted({*children, *others, *foreign_users(mirror, node)}))


def _own_users(mirror: Mirror, node: TreeNode, of: set[str]) -> Iterator[User]:
    """Objects of these kinds in the node's own namespace that name it."""
    for record in mirror.referrers(node):
        kind = kind_of(record)
        if record.meta.namespace == node.namespace and kind in of:
            yield User(kind, record.meta.name)


def foreign_users(mirror: Mirror, node: TreeNode) -> Iterator[User]:
    """Objects of other namespaces that name the node and may. Nodes of a cycle do not count as each other's users."""
    for record in mirror.referrers(node):
        home = record.meta.namespace or ""
        if home == node.namespace or not mirror.forest.permits(home, node):
            continue
        kind, own = kind_of(record), mirror.trees(home)
        is_cycle = (kind == kinds.IMAGE and isinstance(own.chain(record.meta.name), ImageCycle)) or (
            kind == kinds.SYSTEM and isinstance(own.system(record.meta.name), SystemCycle)
        )
        if not is_cycle:
            yield User(kind, record.meta.name, home)
