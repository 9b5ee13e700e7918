"""SystemReset: its status, and its deletion after its time. Plans of its targets carry it out."""

from __future__ import annotations

from datetime import timedelta

from kigi.adapters.kubernetes.resources import RESET
from kigi.api.reset import SystemResetStatus
from kigi.domain.resets import SETTLE
from kigi.errors import KigiError
from kigi.gather.resets import gather_reset
from kigi.mirror.keys import Key
from kigi.mirror.records import ResetRecord
from kigi.planning.reset_view import seconds_until_deletion
from kigi.reconcilers.object_writes import delete_object
from kigi.reconcilers.writing import report_invalid, write_status
from kigi.runtime.ports import Ports
from kigi.status.resets import finished_status, reset_status

RECHECK_S = 30.0
"""A state that gets resolved causes no event of the request."""


async def reconcile_reset(ports: Ports, key: Key) -> float | None:
    """Reports on the request until it ends, and deletes it ``ttlSecondsAfterFinished`` later."""
    record = ports.mirror.resets.get(key.namespace, key.name)
    if record is None or record.meta.deleting:
        return None
    if isinstance(record.request, KigiError):
        await report_invalid(ports, RESET, record, SystemResetStatus(), record.request)
        return None
    if record.status is not None and record.status.completion_time is not None:
        return await _finished(ports, record, record.status)
    view = gather_reset(ports.mirror, record, record.request, ports.now())
    status = reset_status(view)
    await write_status(ports, RESET, record.meta, record.status, status)
    if status.completion_time is not None:
        return float(record.ttl_s) if record.ttl_s is not None else None
    if view.refusal is not None:
        left = view.request.created + SETTLE + timedelta(seconds=1) - view.now
        return min(max(left.total_seconds(), 1.0), SETTLE.total_seconds())
    return RECHECK_S


async def _finished(ports: Ports, record: ResetRecord, status: SystemResetStatus) -> float | None:
    assert status.completion_time is not None
    await write_status(ports, RESET, record.meta, status, finished_status(status, record.meta.generation))
    if record.ttl_s is None:
        return None
    left_s = seconds_until_deletion(status.completion_time, record.ttl_s, ports.now())
    if left_s > 0:
        return left_s
    await delete_object(ports, RESET.kind, record.meta.namespace, record.meta.name)
    return None
