"""The view of one SystemPrefetch."""

from __future__ import annotations

from datetime import datetime

from kigi.api.prefetch import SystemPrefetchStatus
from kigi.errors import KigiError
from kigi.gather.nodes import gather_nodes
from kigi.mirror.records import (
    PrefetchRecord,
)
from kigi.mirror.store import Mirror
from kigi.planning.prefetches import PrefetchView


def gather_prefetch(mirror: Mirror, record: PrefetchRecord, now: datetime) -> PrefetchView:
    """The view of one prefetch; its spec must be valid. O(nodes + machines)."""
    assert not isinstance(record.spec, KigiError)
    return PrefetchView(
        generation=record.meta.generation,
        spec=record.spec,
        systems={ref.name: mirror.resolved(record.meta.namespace or "", ref.name) for ref in record.spec.systems},
        nodes=gather_nodes(mirror, now),
        status=record.status or SystemPrefetchStatus(),
        now=now,
    )
