"""Who must look again when an object has changed. Cheap, and rather one waking too many: the queue merges them."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.prefetch import SystemPrefetchSpec
from kigi.domain.names import claim_name
from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, VmiRecord, VolumeRecord
from kigi.domain.systems import System
from kigi.domain.usage import images_of
from kigi.mirror.keys import Key
from kigi.mirror.records import (
    CACHE_SILENT_AFTER,
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
from kigi.mirror.store import Change, Mirror
from kigi.planning.captures import uses
from kigi.planning.plugin import NAME
from kigi.planning.targets import named_systems

EnqueueRequest = tuple[Key, float]
"""A key, and the seconds after which it shall be looked at; later ones gather several changes."""

PLUGIN_KEY = Key("plugin", "", NAME)
"""The one Plugin of the cluster."""
GATHER_S = 0.05
"""What comes one by one and is looked at as a whole: volumes of one pass, claims that get bound, VMs that start."""
BINDING_S = 0.2
"""What Kubernetes takes to bind a claim when it sees it after its volume, with some room."""
ROOM_S = 0.5
"""When daemons come up together, the first of them shall not be given everything."""
PROGRESS_S = 1.0
"""How often the bytes of a fill are looked at."""
COUNT_S = 2.0
"""How often an image's number of caches is counted."""


def enqueue_requests(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """Keys that a change concerns, each with its delay in seconds."""
    record = change.new or change.old
    namespace = change.key[0] or ""
    match record:
        case ImageRecord() | SystemRecord():
            yield from _tree_changed(mirror, change, namespace)
        case DeploymentRecord():
            yield from _deployment_changed(mirror, change, namespace)
        case CaptureRecord():
            yield from _capture_changed(change, namespace)
        case PrefetchRecord():
            yield from _prefetch_changed(change, namespace)
        case NodeRecord() | CsiNodeRecord() | KubeVirtRecord() | PluginRecord():
            if _besides_meta(change):
                if isinstance(record, KubeVirtRecord | PluginRecord):
                    yield PLUGIN_KEY, 0.0
                else:
                    yield Key("node", "", change.key[1]), 0.0
                    yield from ((key, GATHER_S) for key in _captures_on(mirror, change.key[1]))
                    yield from ((key, GATHER_S) for key in _all_prefetches(mirror))
                yield from ((key, GATHER_S) for key in all_deployments(mirror))
        case InstancetypeRecord():
            # VMs take them by KubeVirt's hand; here they only tell how much room is left.
            if _besides_meta(change):
                yield from ((key, ROOM_S) for key in all_deployments(mirror))
        case CacheRecord():
            yield from _cache_changed(mirror, change)
        case VolumeRecord():
            yield Key("deployment", *record.deployment), GATHER_S
            if _disk(change.old) != _disk(change.new):
                yield Key("node", "", record.node), GATHER_S
            if record.is_available:
                yield _claim_of(record), BINDING_S
        case VmiRecord():
            yield Key("deployment", *record.deployment), GATHER_S
            if change.new is None:
                # Overlays of its old disks may be deleted now.
                nodes = {v.node for v in mirror.volumes.by("deployment", record.deployment) if v.meta.deleting}
                yield from ((Key("node", "", node), GATHER_S) for node in nodes)
        case ClaimRecord() | MachineRecord() | PolicyRecord():
            yield Key("deployment", *record.deployment), GATHER_S


def everything(mirror: Mirror) -> Iterator[Key]:
    """Every key there is: trees first, so that deployments find them resolved."""
    yield from (Key("image", r.meta.namespace or "", r.meta.name) for r in mirror.images)
    yield from (Key("system", r.meta.namespace or "", r.meta.name) for r in mirror.systems)
    yield PLUGIN_KEY
    yield from all_deployments(mirror)
    yield from (Key("capture", r.meta.namespace or "", r.meta.name) for r in mirror.captures)
    yield from _all_prefetches(mirror)
    yield from (_claim_of(volume) for volume in mirror.volumes if volume.is_available)
    nodes = {name for _, name in (*mirror.nodes.objects, *mirror.caches.objects)}
    nodes.update(str(node) for node in mirror.volumes.values_of("node"))
    yield from (Key("node", "", node) for node in sorted(nodes))


def all_deployments(mirror: Mirror) -> Iterator[Key]:
    """Every deployment of the cluster."""
    return (Key("deployment", r.meta.namespace or "", r.meta.name) for r in mirror.deployments)


def _all_prefetches(mirror: Mirror) -> Iterator[Key]:
    return (Key("prefetch", r.meta.namespace or "", r.meta.name) for r in mirror.prefetches)


def _tree_changed(mirror: Mirror, change: Change, namespace: str) -> Iterator[EnqueueRequest]:
    """A node of a tree concerns itself, its parent's count, and whatever may stand on it."""
    old, new = change.old, change.new
    part = "image" if isinstance(new or old, ImageRecord) else "system"
    if old is not None and new is not None and getattr(old, part) == getattr(new, part):
        if _life(old) != _life(new):
            yield Key("image" if part == "image" else "system", namespace, change.key[1]), 0.0
        return
    if part == "image":
        images = set(mirror.trees(namespace).subtree(change.key[1]))
        for record in (old, new):
            parent = getattr(getattr(record, "image", None), "parent", None)
            if parent is not None:
                images.add(parent)
    else:
        images = {name for record in (old, new) for name in _named_images(record)}
    yield from ((Key("image", namespace, name), 0.0) for name in sorted(images))
    yield from ((Key("system", namespace, r.meta.name), 0.0) for r in mirror.systems.by("namespace", namespace))
    for deployment in mirror.deployments.by("namespace", namespace):
        yield Key("deployment", namespace, deployment.meta.name), GATHER_S
        yield from ((key, COUNT_S) for key in _caches_of(mirror, deployment))
    for prefetch in mirror.prefetches.by("namespace", namespace):
        yield Key("prefetch", namespace, prefetch.meta.name), GATHER_S
        yield from ((Key("node", "", node), COUNT_S) for node in _ordered(prefetch))


def _deployment_changed(mirror: Mirror, change: Change, namespace: str) -> Iterator[EnqueueRequest]:
    old, new = change.old, change.new
    # Those that only one of both names have one user more, or less.
    for name in sorted(_named_systems(old) ^ _named_systems(new)):
        yield Key("system", namespace, name), 0.0
    if isinstance(new, DeploymentRecord):
        seen = (new.meta.uid, new.meta.generation, new.meta.deleting, new.meta.finalizers)
        before = (old.meta.uid, old.meta.generation, old.meta.deleting, old.meta.finalizers) if old else None
        if seen == before:
            return
        yield Key("deployment", namespace, new.meta.name), 0.0
        yield from ((key, GATHER_S) for key in _caches_of(mirror, new))
    else:
        yield Key("deployment", namespace, change.key[1]), 0.0  # what is measured of it is forgotten


def _capture_changed(change: Change, namespace: str) -> Iterator[EnqueueRequest]:
    """Itself, when somebody else than its own pass wrote it; the nodes of its disks, when it asks something else of
    them; and the states and images that it stands on, when these have one user more, or less."""
    old, new = change.old, change.new
    assert old is None or isinstance(old, CaptureRecord)
    assert new is None or isinstance(new, CaptureRecord)
    before = (old.meta.uid, old.meta.generation, old.meta.deleting, old.meta.finalizers) if old else None
    if new is not None and before != (new.meta.uid, new.meta.generation, new.meta.deleting, new.meta.finalizers):
        yield Key("capture", namespace, new.meta.name), 0.0
    statuses = [record.status if record is not None else None for record in (old, new)]
    asked = [(s.phase, [(disk.id, disk.node) for disk in s.disks]) if s is not None else None for s in statuses]
    if asked[0] != asked[1]:
        nodes = {disk.node for status in statuses if status is not None for disk in status.disks}
        yield from ((Key("node", "", node), 0.0) for node in sorted(nodes))
    (states, images), (states_now, images_now) = (uses(status) for status in statuses)
    yield from ((Key("system", namespace, name), 0.0) for name in sorted(states ^ states_now))
    yield from ((Key("image", namespace, name), 0.0) for name in sorted(images ^ images_now))


def _prefetch_changed(change: Change, namespace: str) -> Iterator[EnqueueRequest]:
    """Itself, and its states, when the wish is another; the nodes that are told something else."""
    old, new = change.old, change.new
    assert old is None or isinstance(old, PrefetchRecord)
    assert new is None or isinstance(new, PrefetchRecord)
    yield from ((Key("system", namespace, name), 0.0) for name in sorted(_named_systems(old) ^ _named_systems(new)))
    seen = (new.meta.uid, new.meta.generation) if new else None
    changed = seen != ((old.meta.uid, old.meta.generation) if old else None)
    if new is not None and changed:
        yield Key("prefetch", namespace, new.meta.name), 0.0
    before, after = _ordered(old), _ordered(new)
    for node in sorted(before.keys() | after.keys()):
        if changed or before.get(node) != after.get(node):
            yield Key("node", "", node), 0.0


def _ordered(record: PrefetchRecord | None) -> dict[str, list[str]]:
    """Nodes that are told something, with the states."""
    status = record.status if record is not None else None
    return {node.name: node.ordered for node in status.nodes if node.ordered} if status is not None else {}


def _life(record: Record) -> object:
    """What decides whether a node of a tree is kept."""
    return (record.meta.uid, record.meta.deleting, record.meta.finalizers)


def _named_images(record: Record | None) -> frozenset[str]:
    system = record.system if isinstance(record, SystemRecord) else None
    return images_of(system) if isinstance(system, System) else frozenset()


def _named_systems(record: Record | None) -> frozenset[str]:
    spec = record.spec if isinstance(record, DeploymentRecord | PrefetchRecord) else None
    if isinstance(spec, SystemPrefetchSpec):
        return frozenset(ref.name for ref in spec.systems)
    return named_systems(spec) if isinstance(spec, SystemDeploymentSpec) else frozenset()


def _cache_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    old, new = change.old, change.new
    node = change.key[1]
    assert old is None or isinstance(old, CacheRecord)
    assert new is None or isinstance(new, CacheRecord)
    if old is None or new is None or _has_more_room(old, new) or _woke_up(old, new):
        yield Key("node", "", node), 0.0
        yield from ((key, ROOM_S) for key in all_deployments(mirror))
        yield from ((key, ROOM_S) for key in _all_prefetches(mirror))
    elif (old.held, old.refused) != (new.held, new.refused):
        yield from ((key, 0.0) for key in _deployments_on(mirror, node))
        yield from ((key, PROGRESS_S) for key in _all_prefetches(mirror))
    elif old.fetching != new.fetching:
        yield from ((key, PROGRESS_S) for key in _deployments_on(mirror, node))
    if old is not None and new is not None and _acts(old) != _acts(new):
        yield Key("node", "", node), 0.0
    if old is None or new is None or old.captures != new.captures or _woke_up(old, new):
        yield from ((key, 0.0) for key in _captures_on(mirror, node))
    changed = (old.held if old else frozenset()) ^ (new.held if new else frozenset())
    if changed:
        for namespace in {str(value) for value in mirror.images.values_of("namespace")}:
            trees = mirror.trees(namespace)
            touched = {name for top in trees.image_names_of(changed) for name in trees.subtree(top)}
            yield from ((Key("image", namespace, name), COUNT_S) for name in touched)


def _captures_on(mirror: Mirror, node: str) -> Iterator[Key]:
    """Captures of disks on that node."""
    for capture in mirror.captures:
        if capture.status is not None and any(disk.node == node for disk in capture.status.disks):
            yield Key("capture", capture.meta.namespace or "", capture.meta.name)


def _disk(volume: object) -> object:
    """What its node has to know of a volume."""
    if not isinstance(volume, VolumeRecord):
        return None
    return volume.meta.uid, volume.meta.deleting, volume.meta.finalizers, volume.node, volume.chain


def _claim_of(volume: VolumeRecord) -> Key:
    namespace, deployment = volume.deployment
    return Key(
        "claim", namespace, claim_name(deployment, volume.instance, volume.machine, volume.revision, volume.disk)
    )


def _has_more_room(old: CacheRecord, new: CacheRecord) -> bool:
    return new.budget_bytes != old.budget_bytes or new.wanted_bytes < old.wanted_bytes


def _woke_up(old: CacheRecord, new: CacheRecord) -> bool:
    if old.heartbeat is None or new.heartbeat is None:
        return old.heartbeat != new.heartbeat
    return new.heartbeat - old.heartbeat > CACHE_SILENT_AFTER


def _acts(cache: CacheRecord) -> object:
    return (cache.volumes, cache.observed_generation, cache.meta.generation)


def _deployments_on(mirror: Mirror, node: str) -> set[Key]:
    return {Key("deployment", *volume.deployment) for volume in mirror.volumes.by("node", node)}


def _caches_of(mirror: Mirror, record: DeploymentRecord) -> set[Key]:
    key = (record.meta.namespace or "", record.meta.name)
    return {Key("node", "", volume.node) for volume in mirror.volumes.by("deployment", key)}


def _besides_meta(change: Change) -> bool:
    """Whether a change is in what Kigi reads of the kind, not in the metadata alone."""
    old, new = change.old, change.new
    if old is None or new is None:
        return True
    return any(getattr(old, name) != getattr(new, name) for name in new.__slots__ if name not in ("meta", "body")) or (
        old.meta.deleting != new.meta.deleting
    )
