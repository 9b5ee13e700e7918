"""How long a change of an instance took until all its machines were as desired; for metrics. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from kigi.api.base import Condition
from kigi.api.instance import SystemInstanceStatus

RECOVERED = "Recovered"
"""Ready again without new disks: after a restart, a start, or a loss of a node."""
SETTLE = timedelta(seconds=2)
"""A decision and the condition that follows from it are in one status; its times have whole seconds."""


def ready_after(old: SystemInstanceStatus | None, new: SystemInstanceStatus) -> tuple[str, float] | None:
    """(action, seconds) of the change that made the instance Ready; None if it was Ready, or is not.

    The action is that of the newest decision of the time that ended now: Deployed, Switched, Reset, Renewed.
    """
    before, after = _ready(old.conditions if old is not None else ()), _ready(new.conditions)
    if after is None or after.status != "True" or (before is not None and before.status == "True"):
        return None
    began = before.last_transition_time if before is not None else None
    last = new.history[-1] if new.history else None
    if last is not None and (began is None or last.decision_time >= began - SETTLE):
        return last.action, _seconds(last.decision_time, after.last_transition_time)
    return (RECOVERED, _seconds(began, after.last_transition_time)) if began is not None else None


def became_ready(old: Sequence[Condition], new: Sequence[Condition]) -> bool:
    """Whether the object is Ready now, and was not."""
    before, after = _ready(old), _ready(new)
    return after is not None and after.status == "True" and (before is None or before.status != "True")


def _ready(conditions: Sequence[Condition]) -> Condition | None:
    return next((condition for condition in conditions if condition.type == "Ready"), None)


def _seconds(begin: datetime, end: datetime) -> float:
    """Never negative: a clock that was set back does not count."""
    return max((end - begin).total_seconds(), 0.0)
