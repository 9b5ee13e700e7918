"""SystemPrefetch: its orders let nodes fetch; the reconcile of each node writes them into the NodeCache."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import PREFETCH
from kigi.api.prefetch import SystemPrefetchStatus
from kigi.errors import KigiError
from kigi.gather.prefetch import gather_prefetch
from kigi.gather.quotas import gather_allowance
from kigi.mirror.keys import Key, node_key
from kigi.planning.prefetches import plan_prefetch
from kigi.reconcilers.apply import apply_steps
from kigi.reconcilers.writing import report_invalid, write_status
from kigi.runtime.ports import Ports
from kigi.status.prefetches import prefetch_status

RECHECK_S = 60.0
"""A daemon that stops reporting causes no event."""


async def reconcile_prefetch(ports: Ports, key: Key) -> float | None:
    """Orders nodes to hold layers. A deleted prefetch has no steps: the nodes drop layers that nothing asks for."""
    record = ports.mirror.prefetches.get(key.namespace, key.name)
    if record is None or record.meta.deleting:
        _forget(ports, key)
        return None
    if isinstance(record.spec, KigiError):
        await report_invalid(ports, PREFETCH, record, SystemPrefetchStatus(), record.spec)
        return None
    allowance = gather_allowance(ports.mirror, key.namespace, without=key.name)
    view = gather_prefetch(ports.mirror, record, ports.now(), allowance)
    plan = plan_prefetch(view)
    await apply_steps(ports, plan.steps)
    await write_status(ports, PREFETCH, record.meta, record.status, prefetch_status(view, plan))
    deadline = record.spec.deadline(record.meta.created)
    left_s = (deadline - view.now).total_seconds() if deadline is not None else RECHECK_S
    return min(RECHECK_S, left_s + 1) if left_s > 0 else RECHECK_S


def _forget(ports: Ports, key: Key) -> None:
    orders = ports.mirror.prefetch_orders.pop((key.namespace, key.name), None)
    nodes = orders.hold | orders.keep if orders is not None else {node.meta.name for node in ports.mirror.nodes}
    for node in sorted(nodes):
        ports.queue.add(node_key(node))
