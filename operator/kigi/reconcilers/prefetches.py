"""SystemPrefetch: its status says what each node is told to hold, and the nodes' pass reads it there."""

from __future__ import annotations

from datetime import timedelta

from kigi.adapters.kubernetes.resources import PREFETCH
from kigi.errors import KigiError
from kigi.gather.prefetch import gather_prefetch
from kigi.mirror.keys import Key
from kigi.reconcilers.writing import write_status
from kigi.runtime.ports import Ports
from kigi.status.prefetches import invalid_status, prefetch_status

LOOK_AGAIN = timedelta(minutes=1)
"""A daemon that falls silent changes nothing that is watched."""


async def reconcile_prefetch(ports: Ports, key: Key) -> float | None:
    """Chooses nodes and gives turns. Deleting needs no step: what is not told any more is not wanted any more."""
    record = ports.mirror.prefetches.get(key.namespace, key.name)
    if record is None or record.meta.deleting:
        return None
    if isinstance(record.spec, KigiError):
        status = invalid_status(record.status, record.meta.generation, record.spec, ports.now())
        await write_status(ports, PREFETCH, record.meta, record.status, status)
        return None
    view = gather_prefetch(ports.mirror, record, ports.now())
    await write_status(ports, PREFETCH, record.meta, record.status, prefetch_status(view))
    return LOOK_AGAIN.total_seconds()
