"""Carries out the steps of a capture.

Neighbours of one type are carried out together: all guests freeze, then all VMs are paused. A type that has failed
ends the plan, except that a guest that need not freeze and did not is paused all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from kigi.adapters.kubernetes.resources import BY_KIND, CAPTURE, resource_of
from kigi.domain import names
from kigi.errors import Conflict, KigiError, LostLeadership, NotFound
from kigi.planning.capture_progress import CaptureProgress
from kigi.planning.steps import (
    AddFinalizer,
    CaptureStep,
    CreateObject,
    DeleteCapture,
    FreezeGuest,
    PauseMachine,
    RecordProgress,
    RemoveFinalizer,
    ResumeMachine,
    StepResult,
)
from kigi.reconcilers.object_writes import set_finalizer
from kigi.runtime import metrics
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)

Recorder = Callable[[CaptureProgress], Awaitable[None]]
"""Writes the progress into the capture's status; raises if the API server does not have it afterwards."""


async def apply_capture_steps(ports: Ports, steps: Sequence[CaptureStep], record: Recorder) -> list[StepResult]:
    """Carries out the steps in their order; results of those that were reached. O(1) requests for each step."""
    results: list[StepResult] = []
    for _, group in itertools.groupby(steps, _type):
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(_apply(ports, step, record)) for step in group]
        done = [task.result() for task in started]
        results += done
        if any(result.error is not None and not _may_fail(result.step) for result in done):
            break
    return results


def _may_fail(step: CaptureStep) -> bool:
    return isinstance(step, FreezeGuest) and not step.required


def _type(step: CaptureStep) -> tuple[str, str]:
    """Steps of one type do not depend on each other; a SystemNode depends on the VMImageNodes before it."""
    return type(step).__name__, step.manifest["kind"] if isinstance(step, CreateObject) else ""


async def _apply(ports: Ports, step: CaptureStep, record: Recorder) -> StepResult:
    error: KigiError | None = None
    try:
        await _carry_out(ports, step, record)
    except KigiError as exc:
        error = exc
    name = type(step).__name__
    metrics.STEPS.labels(name).inc()
    fields = {"step": name, "object": getattr(step, "name", ""), "error": str(error or "")}
    logger.info("capture step failed" if error is not None else "capture step done", extra=fields)
    return StepResult(step, ports.now(), error)


async def _carry_out(ports: Ports, step: CaptureStep, record: Recorder) -> None:
    match step:
        case AddFinalizer(namespace, name, kind):
            await set_finalizer(ports, BY_KIND[kind], namespace, name, names.CAPTURE_FINALIZER, wanted=True)
        case RemoveFinalizer(namespace, name, kind):
            await set_finalizer(ports, BY_KIND[kind], namespace, name, names.CAPTURE_FINALIZER, wanted=False)
        case RecordProgress(progress):
            await record(progress)
        case FreezeGuest():
            await _freeze(ports, step)
        case PauseMachine(namespace, name):
            with contextlib.suppress(Conflict):  # paused already, by the operator before this one
                await ports.kube.vmi_request(namespace, name, "pause")
        case ResumeMachine():
            await _resume(ports, step)
        case CreateObject(manifest):
            await _create(ports, manifest)
        case DeleteCapture(namespace, name, uid):
            await _delete(ports, namespace, name, uid)


async def _freeze(ports: Ports, step: FreezeGuest) -> None:
    try:
        timeout = {"unfreezeTimeout": f"{step.timeout_s}s"}
        await ports.kube.vmi_request(step.namespace, step.name, "freeze", timeout)
    except LostLeadership:
        raise
    except KigiError:
        with contextlib.suppress(KigiError):  # the guest may be frozen although the answer was lost
            await ports.kube.vmi_request(step.namespace, step.name, "unfreeze")
        raise


async def _resume(ports: Ports, step: ResumeMachine) -> None:
    with contextlib.suppress(Conflict, NotFound):  # the VM is not paused, or there is none
        await ports.kube.vmi_request(step.namespace, step.name, "unpause")
    if step.thaw:
        with contextlib.suppress(KigiError):  # the agent thaws by itself when its time is over
            await ports.kube.vmi_request(step.namespace, step.name, "unfreeze")


async def _create(ports: Ports, manifest: Mapping[str, Any]) -> None:
    resource = resource_of(manifest)
    ports.see(resource.kind, await ports.kube.create(resource, manifest))


async def _delete(ports: Ports, namespace: str, name: str, uid: str) -> None:
    left = await ports.kube.delete(CAPTURE, namespace, name, uid=uid)
    if left is None:
        ports.see_gone(CAPTURE.kind, namespace, name, uid)
    else:
        ports.see(CAPTURE.kind, left)
