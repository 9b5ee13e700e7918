"""Conditions for kstatus: Ready is the summary; Reconciling and Stalled explain why it is not True."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from kigi.api.base import Condition, Status
from kigi.errors import KigiError, NeedsAction

READY = "Ready"
"""Of every kind: the object is as desired."""
RECONCILING = "Reconciling"
"""Of every kind: Kigi works on it, or waits for something that comes by itself."""
STALLED = "Stalled"
"""Of every kind: a person must act; the message has the remedy."""
RESOLVED = "Resolved"
"""All objects that it names exist, and have complete chains."""
PLACED = "Placed"
"""Every machine has a node."""
CACHED = "Cached"
"""The nodes hold every layer, verified."""
DISKS_READY = "DisksReady"
"""Every machine has its volume and claim."""
MACHINES_CREATED = "MachinesCreated"
"""Every VM names its disk."""
UPDATED = "Updated"
"""No machine runs older content of its state; False: edits wait for resets."""
ACCEPTED = "Accepted"
"""Of a request: it is carried out; False: it is refused as a whole, and nothing happens."""
CHECKED = "Checked"
"""Every node can copy and store the disks; the VMs are paused next."""
EXPIRING = "Expiring"
"""Of a SystemDeployment with an expiration: its end is near, or has come."""
ISOLATED = "Isolated"
"""The NetworkPolicy of every instance exists."""
CAPTURED = "Captured"
"""All disks are copied, at one moment."""
STORED = "Stored"
"""All new layers are in the repository."""
DEADLINE_MISSED = "DeadlineMissed"
"""Not all nodes were ready at the deadline."""
COMPLETE = "Complete"
"""The request is carried out; nothing follows."""
FAILED = "Failed"
"""The request has failed; nothing follows."""
SPEC_TRUNCATED = "SpecTruncated"
"""Of a NodeCache: all layers and copies of its node do not fit into its spec."""
VERSION_SKEW = "VersionSkew"
"""Of a NodeCache: operator and daemon do not understand each other's protocol, or are too many versions apart."""
TASKS_FAILING = "TasksFailing"
"""Of a NodeCache: a background task of the daemon failed a short time ago, and is started again."""
DISK_FILLING = "DiskFilling"
"""Of a NodeCache: guests fill the node's disk; the message names their machines."""
WRITABLE = "Writable"
"""Of a LayerRepository: captures can store layers, and no layer can be replaced."""

SUMMARY = (READY, RECONCILING, STALLED)

MAX_MESSAGE_BYTES = 2048
"""Longest message of a condition that Kigi writes: the conditions are part of an object whose size is bounded."""


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
                    "message": bounded(finding.message),
                }
            )
        )
    return merged


def bounded(text: str, size_bytes: int = MAX_MESSAGE_BYTES) -> str:
    """The text, or its beginning and "…", in at most ``size_bytes`` of UTF-8."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= size_bytes else encoded[: size_bytes - 3].decode(errors="ignore") + "…"


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
