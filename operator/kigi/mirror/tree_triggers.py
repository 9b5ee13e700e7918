"""The keys that depend on a node of a tree, in any namespace.

Only references that are permitted make their object depend on another namespace's node. When a reference becomes
permitted or no longer is, its object and all that depends on it are concerned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kigi.domain import kinds
from kigi.domain.tree_names import TreeNode
from kigi.mirror.keys import Key, KeyKind, node_key
from kigi.mirror.records import DeploymentRecord, ImageRecord, InstanceRecord, PrefetchRecord, Record, SystemRecord
from kigi.mirror.references import node_of_image, references_of
from kigi.mirror.store import Change, Mirror

EnqueueRequest = tuple[Key, float]
"""A key, and the seconds until it is reconciled."""

NOW_S = 0.0
BATCH_S = 0.05
"""Merges changes that come in a row and are handled together: the volumes, claims and VMs of one deployment."""
COUNT_S = 2.0
"""Interval in which the number of caches that hold an image is counted again."""

_KEY_KINDS: dict[str, KeyKind] = {kinds.IMAGE: "image", kinds.SYSTEM: "system"}


def tree_changed(mirror: Mirror, node: TreeNode, change: Change) -> Iterator[EnqueueRequest]:
    """The node, what it names or named, all that depends on it, and grants that name it.

    A change of a tree may also change what a grant covers. O(objects that depend on the node, questions about its
    namespace).
    """
    yield node_key_of(node), NOW_S
    named = references_of(change.old) | references_of(change.new)
    for other in sorted(named):
        if mirror.forest.permits(node.namespace, other, asks=False):
            yield node_key_of(other), NOW_S
    if change.old is None or change.new is None:
        yield from ((key, NOW_S) for key in _grants_of(mirror, node))
    yield from permissions_changed(mirror, mirror.forest.changed_answers(about=node.namespace))
    yield from dependents(mirror, [node])


def permissions_changed(mirror: Mirror, changed: Iterable[tuple[str, TreeNode]]) -> Iterator[EnqueueRequest]:
    """The objects of each (home, node) that refer to the node, all that depends on them, and the node that they use."""
    for home, node in changed:
        yield node_key_of(node), NOW_S
        found = [record for record in mirror.referrers(node) if record.meta.namespace == home]
        for record in found:
            yield from requests_of(mirror, record)
        yield from dependents(mirror, [each for record in found if (each := _node_of(record)) is not None])


def dependents(mirror: Mirror, nodes: Iterable[TreeNode]) -> Iterator[EnqueueRequest]:
    """Everything that depends on one of the nodes, directly or not, without the nodes themselves. O(what is found)."""
    waiting = list(nodes)
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        for record in mirror.referrers(node):
            if not mirror.forest.permits(record.meta.namespace or "", node):
                continue
            found = _node_of(record)
            if found is None:
                yield from requests_of(mirror, record)
            elif found not in seen:
                seen.add(found)
                waiting.append(found)
                yield node_key_of(found), NOW_S


def dependent_images(mirror: Mirror, tops: Iterable[TreeNode]) -> set[TreeNode]:
    """The images and all of their descendants, in any namespace."""
    seen = set(tops)
    waiting = list(seen)
    while waiting:
        for record in mirror.images.by("names", waiting.pop()):
            node = node_of_image(record)
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


def node_key_of(node: TreeNode) -> Key:
    """The key of a node of a tree."""
    return Key(_KEY_KINDS[node.kind], node.namespace, node.name)


def caches_of(mirror: Mirror, record: DeploymentRecord) -> set[Key]:
    """The nodes with disks of a deployment."""
    key = (record.meta.namespace or "", record.meta.name)
    return {node_key(volume.node) for volume in mirror.volumes.by("deployment", key)}


def _node_of(record: Record) -> TreeNode | None:
    """The node of a tree that the object is; None if it is none."""
    kind = {ImageRecord: kinds.IMAGE, SystemRecord: kinds.SYSTEM}.get(type(record))
    return TreeNode(kind, record.meta.namespace or "", record.meta.name) if kind is not None else None


def requests_of(mirror: Mirror, record: Record) -> Iterator[EnqueueRequest]:
    """What an object whose states changed enqueues."""
    namespace, name = record.meta.namespace or "", record.meta.name
    match record:
        case ImageRecord():
            yield Key("image", namespace, name), NOW_S
        case SystemRecord():
            yield Key("system", namespace, name), NOW_S
        case DeploymentRecord():
            yield Key("deployment", namespace, name), BATCH_S
            for instance in mirror.instances.by("deployment", (namespace, name)):
                yield Key("instance", namespace, instance.meta.name), BATCH_S
            yield from ((key, COUNT_S) for key in caches_of(mirror, record))
        case InstanceRecord():
            yield Key("instance", namespace, name), BATCH_S
        case PrefetchRecord():
            yield Key("prefetch", namespace, name), BATCH_S
            orders = mirror.prefetch_orders.get((namespace, name))
            yield from ((node_key(node), COUNT_S) for node in sorted(orders.hold if orders is not None else ()))
        case _:
            pass


def _grants_of(mirror: Mirror, node: TreeNode) -> Iterator[Key]:
    for record in mirror.grants.by("namespace", node.namespace):
        grant = record.in_force
        if grant is not None and any((to.kind, to.name) == (node.kind, node.name) for to in grant.targets):
            yield Key("grant", node.namespace, record.meta.name)
