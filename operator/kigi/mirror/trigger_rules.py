"""The rules behind ``triggers``: for each kind, the keys that a change of one object concerns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kigi.domain import kinds
from kigi.domain.grants import Grant
from kigi.domain.names import claim_name
from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, VmiRecord, VolumeRecord
from kigi.domain.tree_names import TreeNode
from kigi.mirror.comparisons import (
    capture_orders,
    content_changed,
    disk_of,
    has_more_capacity,
    life_of,
    life_or_spec,
    namespace_of,
    progress_of,
    reported_overlays,
    typed,
)
from kigi.mirror.instance_keys import (
    all_instances,
    deployments_on,
    instance_key,
    instances_on,
    instances_with,
    owner_of,
    unplaced,
    writers,
)
from kigi.mirror.keys import Key, KeyKind, node_key
from kigi.mirror.records import (
    CacheRecord,
    CaptureRecord,
    DeploymentRecord,
    GrantRecord,
    ImageRecord,
    InstanceRecord,
    NamespaceRecord,
    PrefetchRecord,
    Record,
    SystemRecord,
)
from kigi.mirror.references import node_of_image, references_of
from kigi.mirror.store import Change, Mirror
from kigi.mirror.tree_triggers import (
    BATCH_S,
    COUNT_S,
    NOW_S,
    EnqueueRequest,
    caches_of,
    dependent_images,
    dependents,
    node_key_of,
    permissions_changed,
    tree_changed,
)
from kigi.planning.plugin import NAME
from kigi.planning.uploads import reported_uploads

PLUGIN_KEY = Key("plugin", "", NAME)
"""The Plugin of the cluster."""
BINDING_S = 0.2
"""Time in which Kubernetes binds a claim that it sees after its volume."""
CAPACITY_S = 0.5
"""When several daemons start together, the first to report must not get every disk."""
DECLARED_S = 5.0
"""Delay after which a node tries a refused layer as another object declares it, if there is one."""
PROGRESS_S = 1.0
"""Interval of status writes that only show more bytes."""
SUMMARY_S = 0.2
"""Merges the reports of many instances into one summary of their deployment."""

# Trees.


def image_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The image, its parents (which count their children), and all that depends on it."""
    old, new = typed(change, ImageRecord)
    if old is not None and new is not None and old.image == new.image:
        yield from _life_changed("image", change)
        return
    yield from tree_changed(mirror, TreeNode(kinds.IMAGE, namespace_of(change), change.key[1]), change)
    rivals = [node_of_image(record) for record in mirror.contents.rivals((old, new))]
    yield from ((node_key_of(node), NOW_S) for node in rivals)
    yield from dependents(mirror, rivals)


def system_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The state, what it names or named, and all that depends on it."""
    old, new = typed(change, SystemRecord)
    if old is not None and new is not None and old.system == new.system:
        yield from _life_changed("system", change)
        return
    yield from tree_changed(mirror, TreeNode(kinds.SYSTEM, namespace_of(change), change.key[1]), change)


def grant_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The grant, and what depends on a reference that it now permits, or permits no more."""
    old, new = typed(change, GrantRecord)
    if new is not None and life_or_spec(old) != life_or_spec(new):
        yield Key("grant", namespace_of(change), change.key[1]), NOW_S
    if (old.in_force if old is not None else None) != (new.in_force if new is not None else None):
        yield from permissions_changed(mirror, mirror.forest.changed_answers(about=namespace_of(change)))


def namespace_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """What the labels decide: grants that select the namespace or no longer do, and everything in the namespace."""
    old, new = typed(change, NamespaceRecord)
    if old is not None and new is not None and old.labels == new.labels:
        return
    for record in mirror.grants:
        if record.in_force is not None and _selects(record.in_force, old) != _selects(record.in_force, new):
            yield Key("grant", record.meta.namespace or "", record.meta.name), COUNT_S
    yield from permissions_changed(mirror, mirror.forest.changed_answers(of=change.key[1]))
    if new is not None:  # the repositories that its objects may use
        yield from _places_changed(mirror, mirror.images.by("namespace", change.key[1]))
        yield from ((key, COUNT_S) for key in all_quotas(mirror))
        for capture in mirror.captures.by("namespace", change.key[1]):
            yield Key("capture", change.key[1], capture.meta.name), NOW_S


def _selects(grant: Grant, record: NamespaceRecord | None) -> bool:
    return record is not None and grant.selector.matches(record.labels)


def _life_changed(kind: KeyKind, change: Change) -> Iterator[EnqueueRequest]:
    """Deletion and finalizers decide whether a tree's node stays."""
    if life_of(change.old) != life_of(change.new):
        yield Key(kind, namespace_of(change), change.key[1]), NOW_S


def repository_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The repository, if its spec changed or it is gone; then also all images and captures, which may use it now."""
    if life_or_spec(change.old) == life_or_spec(change.new):
        return
    yield Key("repository", "", change.key[1]), NOW_S
    yield from _places_changed(mirror, mirror.images)
    yield from ((Key("capture", r.meta.namespace or "", r.meta.name), NOW_S) for r in mirror.captures)


def quota_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The quota, if its spec changed; then also what it may have refused or may refuse now."""
    if life_or_spec(change.old) == life_or_spec(change.new):
        return
    yield Key("quota", "", change.key[1]), NOW_S
    yield from ((key, BATCH_S) for key in all_instances(mirror))
    yield from ((key, BATCH_S) for key in all_prefetches(mirror))


def _places_changed(mirror: Mirror, images: Iterable[ImageRecord]) -> Iterator[EnqueueRequest]:
    """The images, whose repository may be another one now, and all that depends on them."""
    nodes = [node_of_image(record) for record in images]
    yield from ((node_key_of(node), NOW_S) for node in nodes)
    yield from dependents(mirror, nodes)


# Deployments, captures and prefetches. The operator's own status writes enqueue nothing.


def deployment_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The deployment, its instances and nodes, if its spec changed or it is being deleted; states with other users."""
    old, new = typed(change, DeploymentRecord)
    namespace = namespace_of(change)
    yield from _users_changed(mirror, old, new)
    if new is None:
        yield Key("deployment", namespace, change.key[1]), NOW_S  # its reconcile removes its gauges
    elif life_or_spec(old) != life_or_spec(new):
        yield Key("deployment", namespace, new.meta.name), NOW_S
        yield from ((key, BATCH_S) for key in caches_of(mirror, new))
    if life_or_spec(old) != life_or_spec(new):
        for instance in mirror.instances.by("deployment", (namespace, change.key[1])):
            yield instance_key(instance), NOW_S


def instance_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The instance, if its spec changed or it came or went; its deployment; states that gained or lost a user."""
    old, new = typed(change, InstanceRecord)
    record = new or old
    assert record is not None
    namespace = namespace_of(change)
    yield from _users_changed(mirror, old, new)
    if life_or_spec(old) != life_or_spec(new):
        yield Key("instance", namespace, change.key[1]), NOW_S
        yield Key("deployment", *record.deployment), NOW_S if new is None else BATCH_S
    else:
        yield Key("deployment", *record.deployment), SUMMARY_S


def capture_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The capture, if its spec changed or it is being deleted; nodes with other orders; what gained or lost a user."""
    old, new = typed(change, CaptureRecord)
    namespace = namespace_of(change)
    if new is not None and life_or_spec(old) != life_or_spec(new):
        yield Key("capture", namespace, new.meta.name), NOW_S
    before, after = progress_of(old), progress_of(new)
    if capture_orders(before) != capture_orders(after):
        nodes = {disk.node_name for progress in (before, after) for disk in progress.disks}
        yield from ((node_key(node), NOW_S) for node in sorted(nodes))
    yield from _users_changed(mirror, old, new)


def prefetch_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The prefetch, its states and images, if its spec changed or it is gone; its reconcile enqueues nodes."""
    old, new = typed(change, PrefetchRecord)
    namespace = namespace_of(change)
    yield from _users_changed(mirror, old, new)
    if life_or_spec(old) != life_or_spec(new):
        yield Key("prefetch", namespace, change.key[1]), NOW_S


# Nodes, KubeVirt and instancetypes: what placement of every deployment reads.


def node_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The node's cache, instances on it or without a node, and prefetches and captures that may use it."""
    if not content_changed(change):
        return
    node = change.key[1]
    yield node_key(node), NOW_S
    yield from ((key, BATCH_S) for key in _captures_on(mirror, node))
    yield from ((key, BATCH_S) for key in all_prefetches(mirror))
    yield from ((key, BATCH_S) for key in instances_on(mirror, node) | unplaced(mirror))


def hook_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The Plugin, and every instance: whether VMs may start depends on the hook."""
    if content_changed(change):
        yield PLUGIN_KEY, NOW_S
        yield from ((key, BATCH_S) for key in all_instances(mirror))


def instancetype_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """Instances without a node: an instancetype decides how much memory VMs take of their nodes."""
    if content_changed(change):
        yield from ((key, CAPACITY_S) for key in unplaced(mirror))


def cache_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """Depends on what changed: capacity, layers, overlays, copies or progress."""
    old, new = typed(change, CacheRecord)
    node = change.key[1]
    if old is None or new is None or has_more_capacity(old, new) or old.protocols != new.protocols:
        yield node_key(node), NOW_S
        yield from ((key, CAPACITY_S) for key in unplaced(mirror))
        yield from ((key, CAPACITY_S) for key in all_prefetches(mirror))
    if old is None or new is None:
        yield from ((key, CAPACITY_S) for key in instances_on(mirror, node))
    elif (old.held, old.refused) != (new.held, new.refused):
        changed = (old.held ^ new.held) | old.refused.keys() | new.refused.keys()
        yield from ((key, NOW_S) for key in instances_with(mirror, node, changed))
        yield from ((key, SUMMARY_S) for key in deployments_on(mirror, node))
        yield from ((key, PROGRESS_S) for key in all_prefetches(mirror))
    elif old.fetching != new.fetching:
        yield from ((key, PROGRESS_S) for key in deployments_on(mirror, node))
    if old is not None and new is not None and reported_overlays(old) != reported_overlays(new):
        yield node_key(node), NOW_S
    if (old.filling if old else frozenset()) != (new.filling if new else frozenset()):
        yield node_key(node), NOW_S
        yield from ((key, PROGRESS_S) for key in instances_on(mirror, node))
    if old is not None and new is not None and old.written_bytes != new.written_bytes:
        yield from ((key, COUNT_S) for key in writers(mirror, node, old.written_bytes, new.written_bytes))
    if old is not None and new is not None and new.misdeclared - old.misdeclared:
        yield node_key(node), DECLARED_S
    if old is None or new is None or old.captures != new.captures:
        yield from ((key, NOW_S) for key in _captures_on(mirror, node))
    if reported_uploads(old.captures if old else {}) != reported_uploads(new.captures if new else {}):
        yield node_key(node), NOW_S
    yield from _holders_changed(mirror, old, new)


def daemon_is_back(mirror: Mirror, node: str) -> Iterator[EnqueueRequest]:
    """Everything that avoids or awaits a node whose daemon is silent. A plain heartbeat enqueues nothing."""
    yield node_key(node), NOW_S
    yield from ((key, CAPACITY_S) for key in instances_on(mirror, node) | unplaced(mirror))
    yield from ((key, CAPACITY_S) for key in all_prefetches(mirror))
    yield from ((key, NOW_S) for key in _captures_on(mirror, node))


def _holders_changed(mirror: Mirror, old: CacheRecord | None, new: CacheRecord | None) -> Iterator[EnqueueRequest]:
    """Images with a layer that the node gained or lost: their status counts the caches that hold them."""
    changed = (old.held if old else frozenset()) ^ (new.held if new else frozenset())
    if not changed:
        return
    images = [record.meta for digest in changed for record in mirror.images.by("digest", digest)]
    tops = [TreeNode(kinds.IMAGE, meta.namespace or "", meta.name) for meta in images]
    yield from ((node_key_of(node), COUNT_S) for node in dependent_images(mirror, tops))


# Children of deployments.


def volume_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The instance; the node if its NodeCache depends on the change; a claim that Kubernetes may have seen first."""
    old, new = typed(change, VolumeRecord)
    record = new or old
    assert record is not None
    yield owner_of(mirror, record), BATCH_S
    if disk_of(old) != disk_of(new):
        yield node_key(record.node), BATCH_S
    if record.is_available:
        yield claim_key(record), BINDING_S
    if old is None or new is None or old.meta.deleting != new.meta.deleting:
        yield from ((key, COUNT_S) for key in all_quotas(mirror))


def vmi_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The instance; when a VMI has ended, the nodes that may delete overlays of its former disks."""
    yield from child_changed(mirror, change)
    if change.new is None and isinstance(change.old, VmiRecord):
        volumes = mirror.volumes.by("instance", (*change.old.deployment, change.old.instance))
        yield from ((node_key(node), BATCH_S) for node in {v.node for v in volumes if v.meta.deleting})


def child_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The instance of a claim, VM, VMI or policy."""
    record = change.new or change.old
    assert isinstance(record, ClaimRecord | MachineRecord | PolicyRecord | VmiRecord)
    yield owner_of(mirror, record), BATCH_S


# Keys.


def all_deployments(mirror: Mirror) -> Iterator[Key]:
    """Every deployment of the cluster."""
    return (Key("deployment", r.meta.namespace or "", r.meta.name) for r in mirror.deployments)


def all_quotas(mirror: Mirror) -> Iterator[Key]:
    """Every SystemQuota."""
    return (Key("quota", "", record.meta.name) for record in mirror.quotas)


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
        if any(disk.node_name == node for disk in progress_of(capture).disks):
            yield Key("capture", capture.meta.namespace or "", capture.meta.name)


def _users_changed(mirror: Mirror, old: Record | None, new: Record | None) -> Iterator[EnqueueRequest]:
    """Nodes of trees that gained or lost a user. A user that is not permitted is none, and must cause no work there."""
    record = new or old
    assert record is not None
    home = record.meta.namespace or ""
    for node in sorted(references_of(old) ^ references_of(new)):
        if mirror.forest.permits(home, node, asks=False):
            yield node_key_of(node), NOW_S
