"""SystemCapture: a running instance of a deployment becomes a new state of the system tree."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

from kigi.adapters.kubernetes.resources import CAPTURE
from kigi.api.base import ObjectRef
from kigi.api.capture import SystemCaptureSpec, SystemCaptureStatus
from kigi.api.conditions import SUMMARY, merge_conditions, problem_findings
from kigi.domain.names import CAPTURE_FINALIZER
from kigi.errors import Conflict, KigiError, LostLeadership
from kigi.gather.capture import gather_capture, with_live_state
from kigi.mirror.keys import Key
from kigi.mirror.records import CaptureRecord
from kigi.planning.capture_outcomes import error_after, progress_after
from kigi.planning.capture_progress import CaptureProgress, held_machines
from kigi.planning.capture_view import CaptureView
from kigi.planning.captures import CapturePlan, plan_capture
from kigi.reconcilers.apply_capture import apply_capture_steps
from kigi.reconcilers.object_writes import set_finalizer
from kigi.reconcilers.writing import report_invalid, write_conditions, write_status
from kigi.runtime import metrics
from kigi.runtime.ports import Ports
from kigi.status.captures import capture_status
from kigi.status.durations import became_ready

MAX_PLANS = 12
"""Plans carried out in one reconcile; a capture needs fewer between two waits."""


async def reconcile_capture(ports: Ports, key: Key) -> float | None:
    """Carries out plans until the capture waits, as the queue would take time while VMs are paused.

    Returns the seconds until the next reconcile, or None. Raises the error of a step, after it is in the status.
    """
    for _ in range(MAX_PLANS):
        record = ports.mirror.captures.get(key.namespace, key.name)
        if record is None:
            return None
        if isinstance(record.progress, KigiError):
            await _report_unreadable(ports, record, record.progress)
            return None
        if isinstance(record.spec, KigiError):
            if not record.meta.deleting:
                await report_invalid(ports, CAPTURE, record, SystemCaptureStatus(), record.spec)
                return None
            if not held_machines(record.progress):
                await set_finalizer(ports, CAPTURE, key.namespace, key.name, CAPTURE_FINALIZER, wanted=False)
                return None
            record = _to_resume(record)
        max_pause = timedelta(seconds=ports.settings.capture_max_pause_s)
        view = gather_capture(ports.mirror, record, ports.now(), max_pause=max_pause)
        view = await with_live_state(ports.kube, view)
        plan = plan_capture(view)
        results = await apply_capture_steps(ports, plan.steps, partial(_record, ports, view, plan))
        progress = progress_after(plan.progress, results, deleting=view.deleting)
        error = error_after(progress, results)
        if isinstance(error, Conflict | LostLeadership):
            raise error
        await _write(ports, view, progress, plan, error)
        if error is not None:
            raise error
        if not plan.steps:
            return plan.retry_after_s
    return 0.0


async def _record(ports: Ports, view: CaptureView, plan: CapturePlan, progress: CaptureProgress) -> None:
    """The step RecordProgress; Conflict if the capture is not there any more."""
    if await _write(ports, view, progress, plan) is None:
        raise Conflict(f"SystemCapture {view.namespace}/{view.name} was deleted while it was reconciled")


async def _write(
    ports: Ports, view: CaptureView, progress: CaptureProgress, plan: CapturePlan, error: KigiError | None = None
) -> CaptureRecord | None:
    """Writes the status, if it differs; the capture as it then is, None: it is gone."""
    record = _current(ports, view)
    if record is not None:
        old = record.status or SystemCaptureStatus()
        status = capture_status(view, old.conditions, progress, error or plan.error, plan.obstacles)
        await write_status(ports, CAPTURE, record.meta, record.status, status)
        if became_ready(old.conditions, status.conditions) and record.meta.created is not None:
            seconds = max((ports.now() - record.meta.created).total_seconds(), 0.0)
            metrics.CAPTURE_SECONDS.labels(view.namespace, _deployment_of(ports, record)).observe(seconds)
    return _current(ports, view)


def _deployment_of(ports: Ports, record: CaptureRecord) -> str:
    """Deployment of the captured instance; empty: the instance is gone."""
    instance = ports.mirror.instances.get(record.meta.namespace, record.instance_name)
    return instance.deployment[1] if instance is not None else ""


async def _report_unreadable(ports: Ports, record: CaptureRecord, error: KigiError) -> None:
    """Reports a status that cannot be read, and leaves its other fields as they are. It does not hold up a deletion."""
    meta, namespace = record.meta, record.meta.namespace or ""
    if meta.deleting:
        await set_finalizer(ports, CAPTURE, namespace, meta.name, CAPTURE_FINALIZER, wanted=False)
        return
    old = record.status.conditions if record.status is not None else []
    kept = [condition for condition in old if condition.type not in SUMMARY]
    new = [*merge_conditions(old, problem_findings(error), generation=meta.generation, now=ports.now()), *kept]
    if new != old:
        await write_conditions(ports, CAPTURE, meta, old, new)


def _to_resume(record: CaptureRecord) -> CaptureRecord:
    """The deleted capture with as much of its unreadable spec as it takes to resume its VMs."""
    instance = ObjectRef.model_construct(name=record.instance_name)
    return replace(record, spec=SystemCaptureSpec.model_construct(instance_ref=instance, requested_by=""))


def _current(ports: Ports, view: CaptureView) -> CaptureRecord | None:
    record = ports.mirror.captures.get(view.namespace, view.name)
    return record if record is not None and record.meta.uid == view.uid else None
