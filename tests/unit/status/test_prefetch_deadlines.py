"""Status of prefetches: which nodes it names, and whether the deadline was met; over hours and days."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from kigi.api.prefetch import MAX_NODE_MESSAGE, MAX_UNREADY_NODES, SystemPrefetchStatus
from kigi.planning.prefetches import PrefetchView, plan_prefetch
from kigi.reconcilers.writing import transitions
from kigi.status.prefetches import prefetch_status
from tests.unit.planning.test_prefetches import ALL, BASE, node, view_of

HOUR = timedelta(hours=1)
START = view_of().now
EIGHT = START + 8 * HOUR
WAITING, HELD = node("a"), node("a", held=ALL)


def at(view: PrefetchView, now: datetime, status: SystemPrefetchStatus | None = None) -> SystemPrefetchStatus:
    """The status at that time, after the status before."""
    view = replace(view, now=now, old_status=status or SystemPrefetchStatus(), created=START)
    return prefetch_status(view, plan_prefetch(view))


def missed(status: SystemPrefetchStatus) -> tuple[str, str] | None:
    return next(((c.status, c.reason) for c in status.conditions if c.type == "DeadlineMissed"), None)


BY = pytest.mark.parametrize("spec", [{"readyBy": EIGHT.isoformat()}, {"activeDeadlineSeconds": 8 * 3600}])


def test_without_a_deadline_none_is_missed() -> None:
    status = at(view_of(WAITING), START + 1000 * HOUR)
    assert (missed(status), status.deadline_time) == (None, None)


@BY
def test_a_prefetch_that_is_late_says_so_for_ever(spec: dict[str, object]) -> None:
    waiting, held = view_of(WAITING, **spec), view_of(HELD, **spec)
    early = at(waiting, EIGHT - HOUR)
    assert (missed(early), early.deadline_time) == (("False", "DeadlineAhead"), EIGHT)
    late = at(waiting, EIGHT + timedelta(seconds=1), early)
    assert missed(late) == ("True", "DeadlineMissed")
    assert transitions(early.conditions, late.conditions)[0][0] == "Warning"
    after = at(held, EIGHT + 24 * HOUR, late)
    assert missed(after) == ("True", "DeadlineMissed")
    assert "0 of 1 nodes" in next(c.message for c in after.conditions if c.type == "DeadlineMissed")
    assert after.conditions[0].status == "True", "it is Ready all the same"


@BY
def test_a_node_that_is_lost_after_the_deadline_does_not_miss_it(spec: dict[str, object]) -> None:
    waiting, held = view_of(WAITING, **spec), view_of(HELD, **spec)
    early = at(held, EIGHT - HOUR)
    assert missed(early) == ("False", "ReadyInTime")
    lost = at(waiting, EIGHT - HOUR / 2, early)
    assert missed(lost) == ("False", "DeadlineAhead"), "before the deadline, what is now counts"
    in_time = at(held, EIGHT - timedelta(seconds=1), lost)
    assert missed(at(waiting, EIGHT + 24 * HOUR, in_time)) == ("False", "ReadyInTime")


def test_another_deadline_is_another_question() -> None:
    late = at(view_of(WAITING, readyBy=EIGHT.isoformat()), EIGHT + HOUR)
    assert missed(late) == ("True", "DeadlineMissed")
    later = view_of(WAITING, readyBy=(EIGHT + 24 * HOUR).isoformat())
    assert missed(at(later, EIGHT + 2 * HOUR, late)) == ("False", "DeadlineAhead")


def test_fewer_nodes_than_asked_for_miss_the_deadline() -> None:
    view = view_of(HELD, nodeCount=2, readyBy=EIGHT.isoformat())
    assert missed(at(view, EIGHT + HOUR)) == ("True", "DeadlineMissed")


def test_the_status_names_the_nodes_with_a_cause_first_and_no_more_than_fifty() -> None:
    refused = {BASE.digest: ("LayerCorrupt", "x" * 5000)}
    waiting = [node(f"w{number:03}") for number in range(1000)]
    status = at(view_of(*waiting, node("zz", refused=refused), node("yy", cache_alive=False), parallelism=2), START)
    assert len(status.unready_nodes) == MAX_UNREADY_NODES
    assert [(n.name, n.state) for n in status.unready_nodes[:4]] == [
        ("yy", "Away"),
        ("zz", "Refused"),
        ("w000", "Fetching"),
        ("w001", "Fetching"),
    ]
    assert {n.state for n in status.unready_nodes[4:]} == {"Queued"}
    assert len((status.unready_nodes[1].message or "").encode()) <= MAX_NODE_MESSAGE
    assert (status.desired_nodes, status.ready_nodes) == (1002, 0)
