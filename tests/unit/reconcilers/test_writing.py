from __future__ import annotations

from datetime import UTC, datetime

from kigi.api.base import Condition
from kigi.api.conditions import Finding, merge_conditions, summary
from kigi.reconcilers.writing import transitions

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def conditions(*findings: Finding) -> list[Condition]:
    return merge_conditions([], findings, generation=1, now=NOW)


def events(old: list[Condition], new: list[Condition]) -> list[tuple[str, str]]:
    return [(kind, condition.reason) for kind, condition in transitions(old, new)]


BUSY = conditions(*summary(ready=False, stalled=False, reason="LayersWarming", message="1 of 2"))
READY = conditions(*summary(ready=True, stalled=False, reason="Deployed", message=""))
STALLED = conditions(*summary(ready=False, stalled=True, reason="ImageCycle", message=""))


def test_a_transition_is_one_event() -> None:
    assert events(BUSY, READY) == [("Normal", "Deployed")]
    assert events(READY, READY) == []


def test_losing_ready_and_becoming_stalled_are_events() -> None:
    assert events(READY, BUSY) == [("Normal", "LayersWarming")]
    assert ("Warning", "ImageCycle") in events(BUSY, STALLED)


def test_another_cause_of_a_stall_is_an_event_but_the_same_cause_is_not() -> None:
    other = conditions(*summary(ready=False, stalled=True, reason="NameTaken", message=""))
    assert events(STALLED, other) == [("Warning", "NameTaken")]
    assert events(STALLED, STALLED) == []


def test_progress_within_a_phase_is_not_an_event() -> None:
    more = conditions(*summary(ready=False, stalled=False, reason="LayersWarming", message="2 of 2"))
    assert events(BUSY, more) == []
