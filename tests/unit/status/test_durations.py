"""Durations of changes, from the statuses before and after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kigi.api.base import Condition
from kigi.api.instance import HistoryEntry, SystemInstanceStatus
from kigi.status.durations import became_ready, ready_after

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def status(ready: str, since_s: float, *decisions: tuple[str, float]) -> SystemInstanceStatus:
    """Times in seconds before NOW."""
    condition = Condition(
        type="Ready", status=ready, reason="X", message="", last_transition_time=NOW - timedelta(seconds=since_s)
    )
    entries = [
        HistoryEntry(decision_time=NOW - timedelta(seconds=before_s), action=action, to_system_name="a")
        for action, before_s in decisions
    ]
    return SystemInstanceStatus(conditions=[condition], history=entries)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (None, status("True", 0, ("Deployed", 90)), ("Deployed", 90)),
        (status("False", 40), status("True", 0, ("Deployed", 900), ("Reset", 40)), ("Reset", 40)),
        (status("False", 38), status("True", 0, ("Switched", 40)), ("Switched", 40)),
        (status("False", 20), status("True", 0, ("Reset", 900)), ("Recovered", 20)),
        (status("True", 20), status("True", 20, ("Reset", 40)), None),
        (status("False", 20), status("False", 20, ("Reset", 20)), None),
        (None, status("True", 0), None),
        (status("Unknown", 5), status("True", 0), ("Recovered", 5)),
        (status("False", 5), status("True", 10, ("Reset", 5)), ("Reset", 0)),
    ],
    ids=[
        *("first disks", "reset", "condition a moment later", "restart", "was ready", "is not ready", "no history"),
        *("unknown before", "clock set back"),
    ],
)
def test_the_duration_is_that_of_the_newest_decision_of_the_time_that_ended(
    old: SystemInstanceStatus | None, new: SystemInstanceStatus, found: tuple[str, float] | None
) -> None:
    assert ready_after(old, new) == found


def test_an_object_becomes_ready_once() -> None:
    waits, done = status("False", 1).conditions, status("True", 1).conditions
    assert [became_ready(*pair) for pair in (((), done), (waits, done), (done, done), (waits, waits))] == [
        *(True, True, False, False)
    ]
