"""Status of a SystemReset: whether it is accepted, and how many machines run on fresh disks."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.api.conditions import ACCEPTED, COMPLETE, FAILED, Finding, merge_conditions, summary
from kigi.api.reset import MAX_FAILED, MAX_MESSAGE, FailedMachine, SystemResetStatus
from kigi.errors import KigiError
from kigi.planning.reset_view import MachineProgress, ResetView

_DONE = frozenset({"Running", "Stopped", "PoweredOff"})
_TROUBLED = frozenset({"Unschedulable", "CrashLooping", "Failed"})


def reset_status(view: ResetView) -> SystemResetStatus:
    """The status of a request that has not ended. One that ends here keeps this status, whatever happens later."""
    old = view.old_status or SystemResetStatus()
    done = [one for one in view.machines if one.is_fresh and one.state in _DONE]
    troubled = [one for one in view.machines if one.is_fresh and one.state in _TROUBLED]
    if view.refusal is not None:
        findings, ended = list(_refused(view, view.refusal)), view.is_final
        counts = SystemResetStatus()
    else:
        ended = len(done) == len(view.machines) and not view.unresolved
        findings = list(_accepted(view, len(done), troubled, ended=ended))
        counts = SystemResetStatus(
            targets=len(view.machines),
            succeeded=len(done),
            failed=len(troubled),
            failed_machines=[_failed_machine(one) for one in troubled[:MAX_FAILED]],
            missing_bytes=max(old.missing_bytes, view.missing_bytes),
            summary=f"{len(done)}/{len(view.machines)}",
        )
    now = view.now.replace(microsecond=0)
    return counts.model_copy(
        update={
            "observed_generation": view.generation,
            "conditions": merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
            "start_time": old.start_time or now,
            "completion_time": now if ended else None,
        }
    )


def finished_status(status: SystemResetStatus, generation: int) -> SystemResetStatus:
    """The status of a request that has ended, for a generation with another ttlSecondsAfterFinished."""
    conditions = [each.model_copy(update={"observed_generation": generation}) for each in status.conditions]
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _refused(view: ResetView, error: KigiError) -> Iterator[Finding]:
    text = f"{error}; nothing is reset"
    yield from summary(ready=False, stalled=True, reason=error.reason, message=text)
    yield Finding(ACCEPTED, False, error.reason, text)
    yield Finding(COMPLETE, False, error.reason, text)
    yield Finding(FAILED, view.is_final, error.reason, text)


def _accepted(view: ResetView, done: int, troubled: list[MachineProgress], *, ended: bool) -> Iterator[Finding]:
    total = len(view.machines)
    message = f"{done} of {total} machines are as desired on fresh disks"
    if ended:
        reason = "ResetComplete"
    else:
        warming = any(one.state == "Warming" for one in view.machines)
        reason = "LayersWarming" if warming else "MachinesStarting"
        if view.unresolved:
            message = f"{message}; the states of {view.unresolved} instances are not resolved"
        if troubled:
            first = troubled[0]
            cause = f"{first.state}: {first.message}" if first.message else first.state
            message = f"{message}; {len(troubled)} have trouble, such as {first.instance}/{first.machine}: {cause}"
    yield from summary(ready=ended, stalled=False, reason=reason, message=message)
    yield Finding(ACCEPTED, True, "Accepted", f"{total} machines are concerned")
    yield Finding(COMPLETE, ended, reason, message)
    yield Finding(FAILED, False, reason, "the request is accepted")


def _failed_machine(one: MachineProgress) -> FailedMachine:
    message = one.message[:MAX_MESSAGE] if one.message else None
    return FailedMachine(instance=one.instance, machine=one.machine, state=one.state, message=message)
