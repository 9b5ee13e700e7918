"""Triggers: maps the change of an object to the keys to reconcile.

A trigger may enqueue a key needlessly, and never misses one; the queue merges requests for the same key. Each rule is
cheap: it reads indexes of the mirror, and no object that the change does not concern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, VmiRecord, VolumeRecord
from kigi.mirror import trigger_rules as rules
from kigi.mirror.instance_keys import all_instances
from kigi.mirror.keys import SWEEP_KEY, Key, node_key
from kigi.mirror.records import (
    CacheRecord,
    CaptureRecord,
    CsiNodeRecord,
    DeploymentRecord,
    GrantRecord,
    ImageRecord,
    InstanceRecord,
    InstancetypeRecord,
    KubeVirtRecord,
    NamespaceRecord,
    NodeRecord,
    PluginRecord,
    PrefetchRecord,
    QuotaRecord,
    Record,
    RepositoryRecord,
    ResetRecord,
    SystemRecord,
)
from kigi.mirror.reset_triggers import reports_after, reset_changed
from kigi.mirror.store import Change, Mirror
from kigi.mirror.tree_triggers import EnqueueRequest

_RULES: Mapping[type[Record], Callable[[Mirror, Change], Iterator[EnqueueRequest]]] = {
    ImageRecord: rules.image_changed,
    SystemRecord: rules.system_changed,
    GrantRecord: rules.grant_changed,
    DeploymentRecord: rules.deployment_changed,
    InstanceRecord: rules.instance_changed,
    ResetRecord: reset_changed,
    CaptureRecord: rules.capture_changed,
    PrefetchRecord: rules.prefetch_changed,
    RepositoryRecord: rules.repository_changed,
    QuotaRecord: rules.quota_changed,
    NamespaceRecord: rules.namespace_changed,
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
    yield from _RULES[type(record)](mirror, change)
    yield from reports_after(mirror, change)


def all_keys(mirror: Mirror) -> Iterator[Key]:
    """Every key; trees first, so that their status is written before that of deployments."""
    yield SWEEP_KEY
    yield from (Key("repository", "", r.meta.name) for r in mirror.repositories)
    yield from rules.all_quotas(mirror)
    yield from (Key("image", r.meta.namespace or "", r.meta.name) for r in mirror.images)
    yield from (Key("system", r.meta.namespace or "", r.meta.name) for r in mirror.systems)
    yield from (Key("grant", r.meta.namespace or "", r.meta.name) for r in mirror.grants)
    yield rules.PLUGIN_KEY
    yield from rules.all_deployments(mirror)
    yield from all_instances(mirror)
    yield from (Key("reset", r.meta.namespace or "", r.meta.name) for r in mirror.resets)
    yield from (Key("capture", r.meta.namespace or "", r.meta.name) for r in mirror.captures)
    yield from rules.all_prefetches(mirror)
    yield from (rules.claim_key(volume) for volume in mirror.volumes if volume.is_available)
    nodes = {name for _, name in (*mirror.nodes.objects, *mirror.caches.objects)}
    nodes.update(str(node) for node in mirror.volumes.values_of("node"))
    yield from (node_key(node) for node in sorted(nodes))
