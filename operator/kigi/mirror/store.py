"""The mirror: the operator's copy of the cluster, fed by watches, by listings and by the answers to its own writes.

Decisions read nothing else. The newest resourceVersion of an object wins, whatever its source. So the next decision
sees a write immediately, and a late watch event cannot undo it.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from kigi.adapters.kubernetes import resources
from kigi.domain.images import Image
from kigi.domain.layers import Chain, Digest
from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, VmiRecord, VolumeRecord
from kigi.domain.systems import ResolvedSystem, System
from kigi.domain.trees import Trees
from kigi.errors import KigiError, SpecInvalid
from kigi.mirror.indexed import ObjectKey, Store
from kigi.mirror.parse import parse
from kigi.mirror.records import (
    CacheRecord,
    CaptureRecord,
    CsiNodeRecord,
    DeploymentRecord,
    ImageRecord,
    InstancetypeRecord,
    KubeVirtRecord,
    NodeRecord,
    PluginRecord,
    PrefetchRecord,
    Record,
    SystemRecord,
)
from kigi.planning.prefetch_orders import PrefetchOrders

TOMBSTONES = 20_000
"""uids of deleted objects that are remembered: an event from before the deletion must not bring an object back."""


@dataclass(frozen=True, slots=True)
class Change:
    """An object before and after; None: it did not exist before, or does not exist any more."""

    kind: str
    key: ObjectKey
    old: Record | None
    new: Record | None


class Mirror:
    """Records of all kinds. No decision may be made before ``synced`` is True, when every kind has been listed.

    ``clock`` returns monotonic seconds. ``prefetch_orders``, by namespace and name of the prefetch: the orders of its
    last plan, which NodeCaches may not show yet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.synced = False
        self.images: Store[ImageRecord] = Store(namespace=lambda r: r.meta.namespace)
        self.systems: Store[SystemRecord] = Store(namespace=lambda r: r.meta.namespace)
        self.deployments: Store[DeploymentRecord] = Store(namespace=lambda r: r.meta.namespace)
        self.captures: Store[CaptureRecord] = Store(namespace=lambda r: r.meta.namespace)
        self.prefetches: Store[PrefetchRecord] = Store(namespace=lambda r: r.meta.namespace)
        self.nodes: Store[NodeRecord] = Store()
        self.csi_nodes: Store[CsiNodeRecord] = Store()
        self.caches: Store[CacheRecord] = Store()
        self.volumes: Store[VolumeRecord] = Store(
            deployment=lambda r: r.deployment, node=lambda r: r.node, handle=lambda r: r.handle
        )
        self.claims: Store[ClaimRecord] = Store(deployment=lambda r: r.deployment)
        self.machines: Store[MachineRecord] = Store(deployment=lambda r: r.deployment)
        self.vmis: Store[VmiRecord] = Store(deployment=lambda r: r.deployment)
        self.policies: Store[PolicyRecord] = Store(deployment=lambda r: r.deployment)
        self.kubevirts: Store[KubeVirtRecord] = Store()
        self.plugins: Store[PluginRecord] = Store()
        self.instancetypes: Store[InstancetypeRecord] = Store(namespace=lambda r: r.meta.namespace)
        self.cluster_instancetypes: Store[InstancetypeRecord] = Store()
        self.stores: Mapping[str, Store[Any]] = {
            resources.IMAGE.kind: self.images,
            resources.SYSTEM.kind: self.systems,
            resources.DEPLOYMENT.kind: self.deployments,
            resources.CAPTURE.kind: self.captures,
            resources.PREFETCH.kind: self.prefetches,
            resources.NODE.kind: self.nodes,
            resources.CSI_NODE.kind: self.csi_nodes,
            resources.NODE_CACHE.kind: self.caches,
            resources.VOLUME.kind: self.volumes,
            resources.CLAIM.kind: self.claims,
            resources.MACHINE.kind: self.machines,
            resources.VMI.kind: self.vmis,
            resources.POLICY.kind: self.policies,
            resources.KUBEVIRT.kind: self.kubevirts,
            resources.PLUGIN.kind: self.plugins,
            resources.INSTANCETYPE.kind: self.instancetypes,
            resources.CLUSTER_INSTANCETYPE.kind: self.cluster_instancetypes,
        }
        self.holders: dict[Digest, set[str]] = defaultdict(set)
        """Names of the nodes that hold each layer."""
        self.memory_cache: dict[tuple[str, str], Mapping[str, int]] = {}
        """Bytes of memory that each deployment requests, by node; dropped when one of its volumes or VMs changes."""
        self.prefetch_orders: dict[tuple[str, str], PrefetchOrders] = {}
        self._heartbeats: dict[str, float] = {}
        """By node: the clock's time at which this process last saw the heartbeat of the NodeCache change."""
        self._tombstones: OrderedDict[str, None] = OrderedDict()
        self._trees: dict[str, Trees] = {}

    # Writing.

    def put(self, kind: str, body: Mapping[str, Any]) -> Change | None:
        """Stores the object; None if the same or a newer version is stored, or its uid was deleted."""
        meta = body["metadata"]
        store, key = self.stores[kind], (meta.get("namespace"), meta["name"])
        old = store.objects.get(key)
        version = int(meta.get("resourceVersion") or 0)
        if meta.get("uid") in self._tombstones or (old is not None and old.meta.version >= version):
            return None
        new = parse(kind, body)
        self._replace(kind, key, old, new)
        return Change(kind, key, old, new)

    def gone(self, kind: str, namespace: str | None, name: str, uid: str) -> Change | None:
        """Removes the object with that uid; None if the mirror does not have it. An empty uid removes any."""
        self._add_tombstone(uid)
        key = (namespace, name)
        old = self.stores[kind].objects.get(key)
        if old is None or (uid and old.meta.uid != uid):
            return None
        self._replace(kind, key, old, None)
        return Change(kind, key, old, None)

    def known_uids(self, kind: str) -> dict[str, ObjectKey]:
        """Key of each object of a kind, by uid."""
        return {record.meta.uid: key for key, record in self.stores[kind].objects.items()}

    def _replace(self, kind: str, key: ObjectKey, old: Record | None, new: Record | None) -> None:
        store = self.stores[kind]
        if new is None:
            store.remove(key)
        else:
            store.put(key, new)
        if kind == resources.NODE_CACHE.kind:
            self._index_holders(key[1], cast("CacheRecord | None", old), cast("CacheRecord | None", new))
            self._note_heartbeat(key[1], cast("CacheRecord | None", old), cast("CacheRecord | None", new))
        if _tree_part(old) != _tree_part(new):
            self._trees.pop(key[0] or "", None)
        for record in (old, new):
            if isinstance(record, VolumeRecord | MachineRecord):
                self.memory_cache.pop(record.deployment, None)
            elif isinstance(record, InstancetypeRecord):
                self.memory_cache.clear()

    def _index_holders(self, node: str, old: CacheRecord | None, new: CacheRecord | None) -> None:
        before, after = old.held if old else frozenset(), new.held if new else frozenset()
        for digest in before - after:
            self.holders[digest].discard(node)
            if not self.holders[digest]:
                del self.holders[digest]
        for digest in after - before:
            self.holders[digest].add(node)

    def _note_heartbeat(self, node: str, old: CacheRecord | None, new: CacheRecord | None) -> None:
        if new is None:
            self._heartbeats.pop(node, None)
        elif old is not None and old.heartbeat != new.heartbeat:
            self._heartbeats[node] = self._clock()

    def _add_tombstone(self, uid: str) -> None:
        self._tombstones[uid] = None
        while len(self._tombstones) > TOMBSTONES:
            self._tombstones.popitem(last=False)

    # Reading.

    def silence_s(self, node: str) -> float | None:
        """Seconds since the heartbeat of the node's NodeCache changed; None: this process has not seen it change."""
        at = self._heartbeats.get(node)
        return None if at is None else self._clock() - at

    def trees(self, namespace: str) -> Trees:
        """Both trees of a namespace. They are built again after a change, and resolve their nodes on demand."""
        if namespace not in self._trees:
            images = {record.meta.name: record.image for record in self.images.by("namespace", namespace)}
            systems = {record.meta.name: record.system for record in self.systems.by("namespace", namespace)}
            if not images and not systems:
                return Trees({}, {})  # not stored: nothing would remove the entry of a deleted namespace
            self._trees[namespace] = Trees(images, systems)
        return self._trees[namespace]

    def resolved(self, namespace: str, system: str) -> ResolvedSystem | KigiError:
        """The resolved state, or the error that prevents that."""
        return self.trees(namespace).system(system)

    def chain(self, namespace: str, image: str) -> Chain | KigiError:
        """The chain of an image, or the error that prevents it."""
        return self.trees(namespace).chain(image)


def _tree_part(record: Record | None) -> Image | System | SpecInvalid | None:
    if isinstance(record, ImageRecord):
        return record.image
    if isinstance(record, SystemRecord):
        return record.system
    return None
