"""SystemQuota: counts what its namespaces use. Plans read the limits themselves; this only reports."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import QUOTA
from kigi.api.quota import SystemQuotaStatus
from kigi.errors import KigiError
from kigi.gather.quotas import selected_namespaces, used_by
from kigi.mirror.keys import Key
from kigi.reconcilers.writing import report_invalid, write_status
from kigi.runtime.ports import Ports
from kigi.status.quotas import QuotaView, quota_status

RECOUNT_S = 60.0
"""Orders of prefetches change without an event of their own."""


async def reconcile_quota(ports: Ports, key: Key) -> float | None:
    """Writes the status."""
    record = ports.mirror.quotas.get(None, key.name)
    if record is None or record.meta.deleting:
        return None
    if isinstance(record.spec, KigiError):
        await report_invalid(ports, QUOTA, record, SystemQuotaStatus(), record.spec)
        return None
    names = selected_namespaces(ports.mirror, record.spec)
    view = QuotaView(
        spec=record.spec,
        generation=record.meta.generation,
        old_status=record.status or SystemQuotaStatus(),
        now=ports.now(),
        used={name: used_by(ports.mirror, name) for name in names},
    )
    await write_status(ports, QUOTA, record.meta, record.status, quota_status(view))
    return RECOUNT_S
