"""The view of one SystemPrefetch."""

from __future__ import annotations

from datetime import datetime

from kigi.api.prefetch import SystemPrefetchStatus
from kigi.domain.layers import Digest
from kigi.errors import KigiError
from kigi.gather.nodes import gather_nodes
from kigi.mirror.records import PrefetchRecord
from kigi.mirror.store import Mirror
from kigi.planning.prefetches import PrefetchView


def gather_prefetch(mirror: Mirror, record: PrefetchRecord, now: datetime) -> PrefetchView:
    """The view of one prefetch; its spec must be valid. O(machines + layers of all NodeCaches)."""
    assert not isinstance(record.spec, KigiError)
    namespace = record.meta.namespace or ""
    return PrefetchView(
        namespace=namespace,
        name=record.meta.name,
        uid=record.meta.uid,
        generation=record.meta.generation,
        spec=record.spec,
        systems={ref.name: mirror.resolved(namespace, ref.name) for ref in record.spec.systems},
        nodes=gather_nodes(mirror, now),
        listed={
            cache.meta.name: frozenset(Digest(layer.digest) for layer in cache.spec.layers)
            for cache in mirror.caches
            if cache.spec is not None
        },
        orders=mirror.prefetch_orders.get((namespace, record.meta.name)),
        old_status=record.status or SystemPrefetchStatus(),
        now=now,
    )
