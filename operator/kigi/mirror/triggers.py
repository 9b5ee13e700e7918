"""Triggers: maps the change of an object to the keys to reconcile.

A trigger may enqueue a key needlessly, and never misses one; the queue merges requests for the same key. Each rule is
cheap: it reads indexes of the mirror, and no object that the change does not concern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, VmiRecord, VolumeRecord
from kigi.mirror import trigger_rules as rules
from kigi.mirror.keys import Key, node_key
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
from kigi.mirror.store import Change, Mirror
from kigi.mirror.trigger_rules import EnqueueRequest

_RULES: Mapping[type[Record], Callable[[Mirror, Change], Iterator[EnqueueRequest]]] = {
    ImageRecord: rules.image_changed,
    SystemRecord: rules.system_changed,
    DeploymentRecord: rules.deployment_changed,
    CaptureRecord: rules.capture_changed,
    PrefetchRecord: rules.prefetch_changed,
    NodeRecord: rules.node_changed,
    CsiNodeRecord: rules.node_changed,
    KubeVirtRecord: rules.hook_changed,
    PluginRecord: rules.hook_changed,
    InstancetypeRecord: rules.instancetype_changed,
    CacheRecord: rules.cache_changed,
    VolumeRecord: rules.volume_changed,
    VmiRecord: rules.vmi_changed,
    ClaimRecord: rules.child_changed,
    MachineRecord: rules.child_changed,
    PolicyRecord: rules.child_changed,
}


def enqueue_requests(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """Keys to reconcile after a change that the mirror already has, each with its delay in seconds."""
    record = change.new or change.old
    assert record is not None, "a change has an old or a new record"
    return _RULES[type(record)](mirror, change)


def all_keys(mirror: Mirror) -> Iterator[Key]:
    """Every key; trees first, so that their status is written before that of deployments."""
    yield from (Key("image", r.meta.namespace or "", r.meta.name) for r in mirror.images)
    yield from (Key("system", r.meta.namespace or "", r.meta.name) for r in mirror.systems)
    yield rules.PLUGIN_KEY
    yield from rules.all_deployments(mirror)
    yield from (Key("capture", r.meta.namespace or "", r.meta.name) for r in mirror.captures)
    yield from rules.all_prefetches(mirror)
    yield from (rules.claim_key(volume) for volume in mirror.volumes if volume.is_available)
    nodes = {name for _, name in (*mirror.nodes.objects, *mirror.caches.objects)}
    nodes.update(str(node) for node in mirror.volumes.values_of("node"))
    yield from (node_key(node) for node in sorted(nodes))
