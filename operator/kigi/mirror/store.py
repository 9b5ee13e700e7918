"""The mirror: the operator's copy of the cluster, fed by watches, by listings and by the answers to its own writes.

Decisions read nothing else. The newest resourceVersion of an object wins, whatever its source. So the next decision
sees a write immediately, and a late watch event cannot undo it.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from kigi.adapters.kubernetes import resources
from kigi.api.layer_repository import LayerRepositorySpec
from kigi.domain.forest import Forest, Nodes
from kigi.domain.grants import Grant
from kigi.domain.layers import DEFAULT_REPOSITORY, Chain, Digest
from kigi.domain.observed import MachineRecord, VolumeRecord
from kigi.domain.systems import ResolvedSystem
from kigi.domain.tree_names import TreeNode
from kigi.domain.trees import Trees
from kigi.errors import KigiError
from kigi.mirror.contents import Contents, namespaces_of
from kigi.mirror.default_quota import DefaultQuota
from kigi.mirror.heartbeats import Heartbeats
from kigi.mirror.indexed import ObjectKey, Store
from kigi.mirror.limits import Limits, without_content
from kigi.mirror.node_states import NodeStates
from kigi.mirror.node_use import NodeUse
from kigi.mirror.parse import parse
from kigi.mirror.parse_values import shared
from kigi.mirror.records import (
    CacheRecord,
    GrantRecord,
    ImageRecord,
    InstancetypeRecord,
    NamespaceRecord,
    Record,
    SystemRecord,
)
from kigi.mirror.references import references_of
from kigi.mirror.stores import Stores
from kigi.mirror.volume_use import VolumeUse
from kigi.planning.prefetch_orders import PrefetchOrders
from kigi.planning.repositories import resolve_repository

TOMBSTONES = 20_000
"""uids of deleted objects that are remembered: an event from before the deletion must not bring an object back."""
_KINDS_OF_NODES = frozenset({resources.NODE.kind, resources.CSI_NODE.kind, resources.NODE_CACHE.kind})
FOR_EVER = 2**63
"""Version of the tombstone of an object that does not exist any more."""


@dataclass(frozen=True, slots=True)
class Change:
    """An object before and after; None: it did not exist before, or does not exist any more."""

    kind: str
    key: ObjectKey
    old: Record | None
    new: Record | None


class Mirror(Stores):
    """Records of all kinds. No decision may be made before ``synced`` is True, when every kind has been listed.

    ``clock`` returns monotonic seconds. ``prefetch_orders``, by namespace and name of the prefetch: the orders of its
    last plan, which NodeCaches may not show yet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.synced = False
        self.knows_settings = True
        """False: repositories, quotas and namespaces were not all read: images have the repository that they name."""
        self.stores: Mapping[str, Store[Any]] = self.by_kind()
        self.holders: dict[Digest, set[str]] = defaultdict(set)
        """Names of the nodes that hold each layer."""
        self.node_states = NodeStates()
        self.node_use = NodeUse(clock, self.node_states.changed)
        """What instances use of nodes."""
        self.unplaced: set[tuple[str, str]] = set()
        """(namespace, name) of SystemInstances that no node could take when they were last planned."""
        self.first_held: dict[str, tuple[int, Mapping[str, frozenset[Digest]]]] = {}
        """By uid of a SystemDeployment: its generation, and the layers that each node held when that was first seen."""
        self.prefetch_orders: dict[tuple[str, str], PrefetchOrders] = {}
        self.heartbeats = Heartbeats(clock, self.node_states.changed)
        self.missing_since: dict[str, float] = {}
        """By name of a node without a Node object: the clock's time at which this operator first missed it."""
        self._clock = clock
        self.volume_use = VolumeUse()
        self.default_quota = DefaultQuota(self.caches, clock)
        self.limits = Limits()
        self.contents = Contents(self.images, self._caches_with, self._shares)
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        """By uid: the version at which the object was gone. A newer one exists again, as with its label restored."""
        self.forest = Forest(self._nodes_of, self._grants_of, self._labels_of, self._repository_of)
        """The trees of all namespaces, and the references between them."""

    # Writing.

    def put(self, kind: str, body: Mapping[str, Any]) -> Change | None:
        """Stores the object; None if the same or a newer version is stored, or was gone."""
        meta = body["metadata"]
        store, key = self.stores[kind], (shared(meta.get("namespace")), meta["name"])
        old = store.objects.get(key)
        version = int(meta.get("resourceVersion") or 0)
        if version <= self._tombstones.get(meta.get("uid", ""), -1):
            return None
        if old is not None and old.meta.version >= version and not self._fits_now(kind, key, old, body):
            return None
        new = parse(kind, body if self.limits.take(kind, key, body) else without_content(body))
        self._replace(kind, key, old, new)
        return Change(kind, key, old, new)

    def gone(self, kind: str, namespace: str | None, name: str, uid: str, version: int | None = None) -> Change | None:
        """Removes the object with that uid; None if the mirror does not have it. An empty uid removes any.

        ``version``: the object does not exist, or lacks the label by which Kigi selects it, since that
        resourceVersion; a newer one in the mirror stays, and may come. None: no object with that uid exists any more.
        """
        self._add_tombstone(uid, FOR_EVER if version is None else version)
        key = (namespace, name)
        old = self.stores[kind].objects.get(key)
        if old is None or (uid and old.meta.uid != uid) or (version is not None and old.meta.version > version):
            return None
        self._replace(kind, key, old, None)
        return Change(kind, key, old, None)

    def _fits_now(self, kind: str, key: ObjectKey, old: Record, body: Mapping[str, Any]) -> bool:
        same = old.meta.version == int(body["metadata"].get("resourceVersion") or 0)
        return same and self.limits.admits(kind, key, body)

    def missing_s(self, node: str) -> float:
        """Seconds, by this operator's own clock, for which it has missed the Node; 0: it exists."""
        if self.nodes.get(None, node) is not None:
            self.missing_since.pop(node, None)
            return 0.0
        now = self._clock()
        return now - self.missing_since.setdefault(node, now)

    def is_older(self, kind: str, body: Mapping[str, Any]) -> bool:
        """Whether the mirror has a newer version of the object, or has seen it gone since."""
        meta = body["metadata"]
        old, version = self.stores[kind].get(meta.get("namespace"), meta["name"]), int(meta["resourceVersion"])
        newest = old.meta.version if old is not None and old.meta.uid == meta["uid"] else -1
        return version < newest or version <= self._tombstones.get(meta["uid"], -1)

    def gone_uids(self) -> dict[str, int]:
        """By uid of each object that is gone: the version from which on it was. A copy."""
        return dict(self._tombstones)

    def known_uids(self, kind: str) -> dict[str, tuple[ObjectKey, int]]:
        """Key and version of each object of a kind, by uid."""
        return {record.meta.uid: (key, record.meta.version) for key, record in self.stores[kind].objects.items()}

    def _replace(self, kind: str, key: ObjectKey, old: Record | None, new: Record | None) -> None:
        store = self.stores[kind]
        if new is None:
            store.remove(key)
            self.limits.release(kind, key)
        else:
            store.put(key, new)
        if kind == resources.NODE_CACHE.kind:
            self._index_holders(key[1], cast("CacheRecord | None", old), cast("CacheRecord | None", new))
        if _tree_part(old) != _tree_part(new):
            self.forest.forget(_namespace_of(kind, key))
            if kind == resources.IMAGE.kind:
                self._forget_rivals(cast("ImageRecord | None", old), cast("ImageRecord | None", new))
        for node in references_of(old) - references_of(new):
            if node.namespace != key[0] and not any(r.meta.namespace == key[0] for r in self.referrers(node)):
                self.forest.drop_question(key[0] or "", node)
        if kind == resources.REPOSITORY.kind:
            for namespace in {str(value) for value in self.images.values_of("namespace")}:
                self.forest.forget(namespace)
        self._note_use(kind, key, old, new)

    def _note_use(self, kind: str, key: ObjectKey, old: Record | None, new: Record | None) -> None:
        if kind in _KINDS_OF_NODES:
            self.node_states.changed(key[1])
        if kind == resources.VOLUME.kind:
            self.volume_use.replace(cast("VolumeRecord | None", old), cast("VolumeRecord | None", new))
        for record in (old, new):
            if isinstance(record, VolumeRecord | MachineRecord):
                self.node_use.changed((*record.deployment, record.instance))
            elif isinstance(record, InstancetypeRecord):
                self.node_use.all_changed()

    def _forget_rivals(self, *records: ImageRecord | None) -> None:
        for namespace in namespaces_of(self.contents.rivals(records)):
            self.forest.forget(namespace)

    def _caches_with(self, digest: Digest) -> Iterator[CacheRecord]:
        for node in self.holders.get(digest, ()):
            cache = self.caches.get(None, node)
            if cache is not None:
                yield cache

    def _index_holders(self, node: str, old: CacheRecord | None, new: CacheRecord | None) -> None:
        before, after = old.held if old else frozenset(), new.held if new else frozenset()
        for digest in before - after:
            self.holders[digest].discard(node)
            if not self.holders[digest]:
                del self.holders[digest]
        for digest in after - before:
            self.holders[digest].add(node)
            if self.images.count("digest", digest) > 1:  # it is verified now, which may decide between them
                for namespace in namespaces_of(self.images.by("digest", digest)):
                    self.forest.forget(namespace)

    def _add_tombstone(self, uid: str, version: int) -> None:
        if not uid:
            return
        self._tombstones[uid] = max(version, self._tombstones.pop(uid, -1))
        while len(self._tombstones) > TOMBSTONES:
            self._tombstones.popitem(last=False)

    # Reading.

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Labels of a namespace; none if the mirror does not have it."""
        record = self.namespaces.get(None, namespace)
        return record.labels if record is not None else {}

    def repository_name(self, namespace: str, requested: str | None, what: str) -> str:
        """The LayerRepository that an object of the namespace uses; ``what`` is its field, for the error.

        Raises RepositoryNotPermitted or NoDefaultRepository.
        """
        specs = {r.meta.name: r.spec for r in self.repositories if isinstance(r.spec, LayerRepositorySpec)}
        return resolve_repository(specs, namespace, self.namespace_labels(namespace), requested, what)

    def _repository_of(self, namespace: str, image: str, requested: str | None) -> str:
        if not self.knows_settings:
            return requested or DEFAULT_REPOSITORY
        return self.repository_name(namespace, requested, f"VMImageNode {image}: spec.repositoryRef")

    def trees(self, namespace: str) -> Trees:
        """Both trees of a namespace. They are built again after a change, and resolve their nodes on demand."""
        return self.forest.trees(namespace)

    def referrers(self, node: TreeNode) -> Iterator[Record]:
        """Objects of any namespace that name the node, permitted or not. O(records found)."""
        for store in (self.images, self.systems, self.deployments, self.instances, self.captures, self.prefetches):
            yield from store.by("names", node)

    def _nodes_of(self, namespace: str) -> Nodes:
        images = {
            record.meta.name: self.contents.contradiction(record) or record.image
            for record in self.images.by("namespace", namespace)
        }
        return images, {record.meta.name: record.system for record in self.systems.by("namespace", namespace)}

    def _grants_of(self, namespace: str) -> list[Grant]:
        return [grant for record in self.grants.by("namespace", namespace) if (grant := record.in_force) is not None]

    def _shares(self, owner: str, user: str) -> bool:
        labels = self._labels_of(user)
        return labels is not None and any(grant.selector.matches(labels) for grant in self._grants_of(owner))

    def _labels_of(self, namespace: str) -> Mapping[str, str] | None:
        record = self.namespaces.get(None, namespace)
        return record.labels if record is not None else None

    def resolved(self, namespace: str, system: str) -> ResolvedSystem | KigiError:
        """The resolved state, or the error that prevents that."""
        return self.trees(namespace).system(system)

    def chain(self, namespace: str, image: str) -> Chain | KigiError:
        """The chain of an image, or the error that prevents it."""
        return self.trees(namespace).chain(image)


def _tree_part(record: Record | None) -> object:
    """What the trees of a namespace, and the answers about them, depend on."""
    match record:
        case ImageRecord():
            return record.image
        case SystemRecord():
            return record.system
        case GrantRecord():
            return record.in_force
        case NamespaceRecord():
            return record.labels
        case _:
            return None


def _namespace_of(kind: str, key: ObjectKey) -> str:
    return key[1] if kind == resources.NAMESPACE.kind else key[0] or ""
