"""Conditions for kstatus: Ready is the summary; Reconciling and Stalled explain why it is not True."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from kigi.api.base import Condition, Status
from kigi.errors import KigiError, NeedsAction

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
RESOLVED = "Resolved"
PLACED = "Placed"
CACHED = "Cached"
DISKS_READY = "DisksReady"
MACHINES_CREATED = "MachinesCreated"
CAPTURED = "Captured"
STORED = "Stored"


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without generation and time."""

    type: str
    status: bool | None
    """None: unknown."""
    reason: str
    message: str


def summary(*, ready: bool, stalled: bool, reason: str, message: str) -> tuple[Finding, Finding, Finding]:
    """Ready, Reconciling and Stalled with one reason; exactly one of them is True."""
    return (
        Finding(READY, ready, reason, message),
        Finding(RECONCILING, not ready and not stalled, reason, message),
        Finding(STALLED, stalled, reason, message),
    )


def merge_conditions(
    old: Sequence[Condition], findings: Iterable[Finding], *, generation: int, now: datetime
) -> list[Condition]:
    """The new list in the order of ``findings``; ``lastTransitionTime`` changes only with the status."""
    before = {condition.type: condition for condition in old}
    merged: list[Condition] = []
    for finding in findings:
        status = {True: "True", False: "False", None: "Unknown"}[finding.status]
        previous = before.get(finding.type)
        unchanged = previous is not None and previous.status == status
        since = previous.last_transition_time if previous is not None and unchanged else now.replace(microsecond=0)
        merged.append(
            Condition.model_validate(
                {
                    "type": finding.type,
                    "status": status,
                    "observedGeneration": max(generation, 0),
                    "lastTransitionTime": since,
                    "reason": finding.reason,
                    "message": finding.message[:32768],
                }
            )
        )
    return merged


def problem_findings(error: KigiError) -> tuple[Finding, Finding, Finding]:
    """Ready, Reconciling and Stalled of an error: Stalled is True only if a person must act."""
    return summary(ready=False, stalled=isinstance(error, NeedsAction), reason=error.reason, message=str(error))


S = TypeVar("S", bound=Status)


def with_conditions(
    status: S, old: Sequence[Condition], findings: Iterable[Finding], *, generation: int, now: datetime
) -> S:
    """The status of that generation, with the findings merged into the ``old`` conditions; its other fields stay."""
    conditions = merge_conditions(old, findings, generation=generation, now=now)
    return status.model_copy(update={"observed_generation": generation, "conditions": conditions})


def with_problem(status: S, error: KigiError, *, generation: int, now: datetime) -> S:
    """The status with the conditions of an error. For a stored spec that does not validate: nothing else changes."""
    return with_conditions(status, status.conditions, problem_findings(error), generation=generation, now=now)
