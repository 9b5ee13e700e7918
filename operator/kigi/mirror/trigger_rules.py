"""The rules behind ``triggers``: for each kind, the keys that a change of one object concerns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from kigi.api.capture import SystemCaptureStatus
from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.prefetch import SystemPrefetchSpec
from kigi.domain.images import Image
from kigi.domain.names import claim_name
from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, VmiRecord, VolumeRecord
from kigi.domain.systems import System
from kigi.domain.usage import images_of
from kigi.mirror.keys import Key, KeyKind, node_key
from kigi.mirror.records import (
    CACHE_SILENT_AFTER,
    CacheRecord,
    CaptureRecord,
    DeploymentRecord,
    ImageRecord,
    PrefetchRecord,
    Record,
    SystemRecord,
)
from kigi.mirror.store import Change, Mirror
from kigi.planning.capture_progress import progress_of, uses
from kigi.planning.plugin import NAME
from kigi.planning.targets import named_systems

EnqueueRequest = tuple[Key, float]
"""A key, and the seconds until it is reconciled."""

PLUGIN_KEY = Key("plugin", "", NAME)
"""The Plugin of the cluster."""
NOW_S = 0.0
BATCH_S = 0.05
"""Merges changes that come in a row and are handled together: the volumes, claims and VMs of one deployment."""
BINDING_S = 0.2
"""Time in which Kubernetes binds a claim that it sees after its volume."""
CAPACITY_S = 0.5
"""When several daemons start together, the first to report must not get every disk."""
PROGRESS_S = 1.0
"""Interval of status writes that only show more bytes."""
COUNT_S = 2.0
"""Interval in which the number of caches that hold an image is counted again."""

R = TypeVar("R", bound=Record)


# Trees.


def image_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The image, its parents (which count their children), its descendants, and all that may use one of them."""
    old, new = _typed(change, ImageRecord)
    if old is not None and new is not None and old.image == new.image:
        yield from _life_changed("image", change)
        return
    images = set(mirror.trees(_namespace(change)).subtree(change.key[1]))
    images.update(parent for record in (old, new) if (parent := _parent(record)) is not None)
    yield from _tree_changed(mirror, _namespace(change), images)


def system_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The states and deployments of the namespace, and the images that the state names or named."""
    old, new = _typed(change, SystemRecord)
    if old is not None and new is not None and old.system == new.system:
        yield from _life_changed("system", change)
        return
    yield from _tree_changed(mirror, _namespace(change), _named_images(old) | _named_images(new))


def _tree_changed(mirror: Mirror, namespace: str, images: set[str] | frozenset[str]) -> Iterator[EnqueueRequest]:
    yield from ((Key("image", namespace, name), NOW_S) for name in sorted(images))
    yield from ((Key("system", namespace, r.meta.name), NOW_S) for r in mirror.systems.by("namespace", namespace))
    for deployment in mirror.deployments.by("namespace", namespace):
        yield Key("deployment", namespace, deployment.meta.name), BATCH_S
        yield from ((key, COUNT_S) for key in _caches_of(mirror, deployment))
    for prefetch in mirror.prefetches.by("namespace", namespace):
        yield Key("prefetch", namespace, prefetch.meta.name), BATCH_S
        orders = mirror.prefetch_orders.get((namespace, prefetch.meta.name))
        yield from ((node_key(node), COUNT_S) for node in sorted(orders.hold if orders is not None else ()))


def _life_changed(kind: KeyKind, change: Change) -> Iterator[EnqueueRequest]:
    """Deletion and finalizers decide whether a tree's node stays."""
    if _life(change.old) != _life(change.new):
        yield Key(kind, _namespace(change), change.key[1]), NOW_S


# Deployments, captures and prefetches. The operator's own status writes enqueue nothing.


def deployment_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The deployment and its nodes, if its spec changed or it is being deleted; states that gained or lost a user."""
    old, new = _typed(change, DeploymentRecord)
    namespace = _namespace(change)
    for name in sorted(_named_systems(old) ^ _named_systems(new)):
        yield Key("system", namespace, name), NOW_S
    if new is None:
        yield Key("deployment", namespace, change.key[1]), NOW_S  # its reconcile removes its gauges
    elif _life_or_spec(old) != _life_or_spec(new):
        yield Key("deployment", namespace, new.meta.name), NOW_S
        yield from ((key, BATCH_S) for key in _caches_of(mirror, new))


def capture_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The capture, if its spec changed or it is being deleted; nodes with other orders; what gained or lost a user."""
    old, new = _typed(change, CaptureRecord)
    namespace = _namespace(change)
    if new is not None and _life_or_spec(old) != _life_or_spec(new):
        yield Key("capture", namespace, new.meta.name), NOW_S
    before, after = (record.status if record is not None else None for record in (old, new))
    if _capture_orders(before) != _capture_orders(after):
        nodes = {disk.node for status in (before, after) if status is not None for disk in status.disks}
        yield from ((node_key(node), NOW_S) for node in sorted(nodes))
    (old_states, old_images), (states, images) = uses(progress_of(before)), uses(progress_of(after))
    yield from ((Key("system", namespace, name), NOW_S) for name in sorted(old_states ^ states))
    yield from ((Key("image", namespace, name), NOW_S) for name in sorted(old_images ^ images))


def prefetch_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The prefetch and its states, if its spec changed or it is gone; its reconcile enqueues nodes."""
    old, new = _typed(change, PrefetchRecord)
    namespace = _namespace(change)
    yield from ((Key("system", namespace, name), NOW_S) for name in sorted(_named_systems(old) ^ _named_systems(new)))
    if _life_or_spec(old) != _life_or_spec(new):
        yield Key("prefetch", namespace, change.key[1]), NOW_S


# Nodes, KubeVirt and instancetypes: what placement of every deployment reads.


def node_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The node's cache, and every deployment, prefetch and capture that may use the node."""
    if not _content_changed(change):
        return
    node = change.key[1]
    yield node_key(node), NOW_S
    yield from ((key, BATCH_S) for key in _captures_on(mirror, node))
    yield from ((key, BATCH_S) for key in all_prefetches(mirror))
    yield from ((key, BATCH_S) for key in all_deployments(mirror))


def hook_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The Plugin, and every deployment: whether VMs may start depends on the hook."""
    if _content_changed(change):
        yield PLUGIN_KEY, NOW_S
        yield from ((key, BATCH_S) for key in all_deployments(mirror))


def instancetype_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """Every deployment: an instancetype decides how much memory VMs take of their nodes."""
    if _content_changed(change):
        yield from ((key, CAPACITY_S) for key in all_deployments(mirror))


def cache_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """Depends on what changed: capacity, layers, overlays, copies or progress. A plain heartbeat enqueues nothing."""
    old, new = _typed(change, CacheRecord)
    node = change.key[1]
    if old is None or new is None or _has_more_capacity(old, new) or _is_back(old, new):
        yield node_key(node), NOW_S
        yield from ((key, CAPACITY_S) for key in all_deployments(mirror))
        yield from ((key, CAPACITY_S) for key in all_prefetches(mirror))
    elif (old.held, old.refused) != (new.held, new.refused):
        yield from ((key, NOW_S) for key in _deployments_on(mirror, node))
        yield from ((key, PROGRESS_S) for key in all_prefetches(mirror))
    elif old.fetching != new.fetching:
        yield from ((key, PROGRESS_S) for key in _deployments_on(mirror, node))
    if old is not None and new is not None and _reported_overlays(old) != _reported_overlays(new):
        yield node_key(node), NOW_S
    if old is None or new is None or old.captures != new.captures or _is_back(old, new):
        yield from ((key, NOW_S) for key in _captures_on(mirror, node))
    yield from _holders_changed(mirror, old, new)


def _holders_changed(mirror: Mirror, old: CacheRecord | None, new: CacheRecord | None) -> Iterator[EnqueueRequest]:
    """Images with a layer that the node gained or lost: their status counts the caches that hold them."""
    changed = (old.held if old else frozenset()) ^ (new.held if new else frozenset())
    if not changed:
        return
    for namespace in {str(value) for value in mirror.images.values_of("namespace")}:
        trees = mirror.trees(namespace)
        touched = {name for top in trees.image_names_of(changed) for name in trees.subtree(top)}
        yield from ((Key("image", namespace, name), COUNT_S) for name in touched)


# Children of deployments.


def volume_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The deployment; the node if its NodeCache depends on the change; a claim that Kubernetes may have seen first."""
    old, new = _typed(change, VolumeRecord)
    record = new or old
    assert record is not None
    yield Key("deployment", *record.deployment), BATCH_S
    if _disk(old) != _disk(new):
        yield node_key(record.node), BATCH_S
    if record.is_available:
        yield claim_key(record), BINDING_S


def vmi_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The deployment; when an instance has ended, the nodes that may delete overlays of its former disks."""
    yield from child_changed(mirror, change)
    if change.new is None and isinstance(change.old, VmiRecord):
        volumes = mirror.volumes.by("deployment", change.old.deployment)
        yield from ((node_key(node), BATCH_S) for node in {v.node for v in volumes if v.meta.deleting})


def child_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The deployment of a claim, VM, instance or policy."""
    record = change.new or change.old
    assert isinstance(record, ClaimRecord | MachineRecord | PolicyRecord | VmiRecord)
    yield Key("deployment", *record.deployment), BATCH_S


# Keys.


def all_deployments(mirror: Mirror) -> Iterator[Key]:
    """Every deployment of the cluster."""
    return (Key("deployment", r.meta.namespace or "", r.meta.name) for r in mirror.deployments)


def all_prefetches(mirror: Mirror) -> Iterator[Key]:
    """Every prefetch of the cluster."""
    return (Key("prefetch", r.meta.namespace or "", r.meta.name) for r in mirror.prefetches)


def claim_key(volume: VolumeRecord) -> Key:
    """The claim of a volume."""
    namespace, deployment = volume.deployment
    return Key(
        "claim", namespace, claim_name(deployment, volume.instance, volume.machine, volume.revision, volume.disk)
    )


def _captures_on(mirror: Mirror, node: str) -> Iterator[Key]:
    for capture in mirror.captures:
        if capture.status is not None and any(disk.node == node for disk in capture.status.disks):
            yield Key("capture", capture.meta.namespace or "", capture.meta.name)


def _deployments_on(mirror: Mirror, node: str) -> set[Key]:
    return {Key("deployment", *volume.deployment) for volume in mirror.volumes.by("node", node)}


def _caches_of(mirror: Mirror, record: DeploymentRecord) -> set[Key]:
    key = (record.meta.namespace or "", record.meta.name)
    return {node_key(volume.node) for volume in mirror.volumes.by("deployment", key)}


# Comparisons: each gives the part of a record that a rule depends on.


def _typed(change: Change, kind: type[R]) -> tuple[R | None, R | None]:
    old, new = change.old, change.new
    assert old is None or isinstance(old, kind)
    assert new is None or isinstance(new, kind)
    return old, new


def _namespace(change: Change) -> str:
    return change.key[0] or ""


def _life(record: Record | None) -> object:
    return (record.meta.uid, record.meta.deleting, record.meta.finalizers) if record is not None else None


def _version(record: Record | None) -> object:
    """Changes with the spec, and with a recreated object of the same name."""
    return (record.meta.uid, record.meta.generation) if record is not None else None


def _life_or_spec(record: Record | None) -> object:
    return _life(record), _version(record)


def _content_changed(change: Change) -> bool:
    """Whether the object came, went, is being deleted now, or changed in a field that Kigi reads of its kind."""
    old, new = change.old, change.new
    if old is None or new is None:
        return True
    return any(getattr(old, name) != getattr(new, name) for name in new.__slots__ if name not in ("meta", "body")) or (
        old.meta.deleting != new.meta.deleting
    )


def _parent(record: ImageRecord | None) -> str | None:
    return record.image.parent if record is not None and isinstance(record.image, Image) else None


def _named_images(record: SystemRecord | None) -> frozenset[str]:
    system = record.system if record is not None else None
    return images_of(system) if isinstance(system, System) else frozenset()


def _named_systems(record: DeploymentRecord | PrefetchRecord | None) -> frozenset[str]:
    spec = record.spec if record is not None else None
    if isinstance(spec, SystemPrefetchSpec):
        return frozenset(ref.name for ref in spec.systems)
    return named_systems(spec) if isinstance(spec, SystemDeploymentSpec) else frozenset()


def _capture_orders(status: SystemCaptureStatus | None) -> object:
    return (status.phase, [(disk.id, disk.node) for disk in status.disks]) if status is not None else None


def _disk(volume: VolumeRecord | None) -> object:
    """The part of a volume that its node's NodeCache depends on."""
    return (_life(volume), volume.node, volume.chain) if volume is not None else None


def _reported_overlays(cache: CacheRecord) -> object:
    return (cache.volumes, cache.observed_generation, cache.meta.generation)


def _has_more_capacity(old: CacheRecord, new: CacheRecord) -> bool:
    return new.budget_bytes != old.budget_bytes or new.wanted_bytes < old.wanted_bytes


def _is_back(old: CacheRecord, new: CacheRecord) -> bool:
    """Whether the daemon reports again after it was silent."""
    if old.heartbeat is None or new.heartbeat is None:
        return old.heartbeat != new.heartbeat
    return new.heartbeat - old.heartbeat > CACHE_SILENT_AFTER
