"""Progress of a capture after its steps, by their results; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from kigi.api.capture import CapturedMachine
from kigi.errors import Conflict, KigiError, LostLeadership, NeedsAction, Waiting
from kigi.planning.capture_progress import CaptureProgress, is_stopped_by_daemon
from kigi.planning.steps import CreateObject, FreezeGuest, PauseMachine, ResumeMachine, StepResult

SHOWN = 3
"""Failed VMs that a message names."""


def progress_after(progress: CaptureProgress, results: Sequence[StepResult], *, deleting: bool) -> CaptureProgress:
    """``progress`` with the times of pauses and resumptions, or the failure to which they lead.

    ``deleting``: a result that cannot be completed for a reason that only a user can remove does not hold up the
    deletion.
    """
    machines = {machine.name: machine for machine in progress.machines}
    for result in results:
        step = result.step
        if isinstance(step, FreezeGuest | PauseMachine | ResumeMachine):
            machines[step.machine] = _after_step(machines[step.machine], result)
    progress = replace(progress, machines=tuple(machines.values()))
    unfrozen = [r for r in results if r.error is not None and isinstance(r.step, FreezeGuest) and r.step.required]
    if unfrozen:
        return progress.abandoned("FreezeFailed", "; ".join(_failures(unfrozen, FreezeGuest)[:SHOWN]))
    failed = _failures(results, PauseMachine)
    if failed:
        return progress.abandoned("PauseFailed", "; ".join(failed[:SHOWN]))
    refused = [r.error for r in results if r.error is not None and isinstance(r.step, CreateObject)]
    if deleting and refused and all(_is_final(error) for error in refused):
        return progress.refused(refused[0].reason, str(refused[0]))
    return progress


def error_after(progress: CaptureProgress, results: Sequence[StepResult]) -> KigiError | None:
    """Error to report, after which the steps are retried; None: there is none, or ``progress`` has it as a failure."""
    failed = [(result.step, result.error) for result in results if result.error is not None]
    for _, error in failed:
        if isinstance(error, LostLeadership):
            return error
    held = [step.machine for step, _ in failed if isinstance(step, ResumeMachine)]
    if held:
        causes = "; ".join(_failures(results, ResumeMachine)[:SHOWN])
        return Waiting(f"{', '.join(held)}: not resumed yet, which is retried: {causes}")
    if progress.end == "Failed":
        return None
    return next((error for step, error in failed if not isinstance(step, FreezeGuest | PauseMachine)), None)


def _after_step(machine: CapturedMachine, result: StepResult) -> CapturedMachine:
    match result.step:
        case FreezeGuest(required=False) if result.error is not None:
            return machine.model_copy(update={"method": "Stop" if is_stopped_by_daemon(machine) else "Pause"})
        case FreezeGuest() if result.error is None and is_stopped_by_daemon(machine):
            return machine.model_copy(update={"pause_time": result.finished_at})
        case PauseMachine() if result.error is None:
            return machine.model_copy(update={"pause_time": result.finished_at})
        case ResumeMachine() if result.error is None:
            pause = result.finished_at - machine.request_time if machine.request_time is not None else None
            known = machine.pause_milliseconds  # by QEMU's events
            milliseconds = _milliseconds(pause) if known is None else known
            update = {"resume_time": result.finished_at, "pause_milliseconds": milliseconds}
            return machine.model_copy(update=update)
    return machine


def _failures(results: Sequence[StepResult], kind: type[FreezeGuest | PauseMachine | ResumeMachine]) -> list[str]:
    """Machine and error of each failed step of the kind."""
    failed = [(result.step, result.error) for result in results if result.error is not None]
    return [f"{step.machine}: {error}" for step, error in failed if isinstance(step, kind)]


def _is_final(error: KigiError) -> bool:
    """The name is taken, or the namespace is terminating; a conflict is decided on fresh state."""
    return isinstance(error, Waiting | NeedsAction) and not isinstance(error, Conflict | LostLeadership)


def _milliseconds(span: timedelta | None) -> int | None:
    return None if span is None else round(span.total_seconds() * 1000)
