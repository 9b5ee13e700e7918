"""When a status is written."""

from __future__ import annotations

from kigi.api.node_cache import CachedLayer, NodeCacheStatus
from kigi_cache.node.status_schedule import HEARTBEAT_S, StatusSchedule

DIGEST = f"sha256:{1:064x}"


def status(fetched: int = 0, state: str = "Fetching") -> NodeCacheStatus:
    return NodeCacheStatus(layers=[CachedLayer(digest=DIGEST, state=state, fetched_bytes=fetched)])


def written(value: NodeCacheStatus, *, took_s: float = 0.01) -> StatusSchedule:
    """The schedule after a write that ended at 100 s."""
    return StatusSchedule("u1").after_write(value, 100.0 - took_s, 100.0).after_beat(100.0)


def test_the_first_status_is_due_immediately() -> None:
    assert StatusSchedule("u1").is_due(status(), 0.0)


def test_progress_waits_for_a_second_and_news_do_not() -> None:
    schedule = written(status(1))
    assert not schedule.is_due(status(2), 100.9)
    assert schedule.is_due(status(2), 101.0)
    assert schedule.is_due(status(1000, "Held"), 100.0)


def test_a_status_that_took_long_to_write_is_written_less_often() -> None:
    schedule = written(status(1), took_s=0.5)
    assert not schedule.is_due(status(2), 104.9)
    assert schedule.is_due(status(2), 105.0)


def test_an_unchanged_status_is_never_written_again() -> None:
    assert not written(status(1, "Held")).is_due(status(1, "Held"), 1e9)


def test_the_lease_is_renewed_at_each_interval() -> None:
    schedule = StatusSchedule("u1")
    assert schedule.is_beat_due(0.0)
    schedule = schedule.after_beat(100.0)
    assert not schedule.is_beat_due(100 + HEARTBEAT_S - 0.1)
    assert schedule.is_beat_due(100 + HEARTBEAT_S)
    assert schedule.of_object("u2").is_beat_due(100.0), "the new object owns the Lease"


def test_a_recreated_object_gets_its_status_immediately_at_the_same_pace() -> None:
    schedule = written(status(1), took_s=0.5)
    assert schedule.of_object("u1") is schedule
    recreated = schedule.of_object("u2")
    assert recreated.is_due(status(1), 100.0)
    assert recreated.interval_s == schedule.interval_s


def test_the_next_check_is_when_progress_may_be_written() -> None:
    schedule = written(status(1))
    assert schedule.next_check_s(status(1), 100.25) == 0.75
    assert schedule.next_check_s(status(2), 101.0) == 1.0, "never in a loop without a wait"


def test_without_progress_the_next_check_is_the_heartbeat() -> None:
    schedule = written(status(1, "Held"))
    assert schedule.next_check_s(status(1, "Held"), 110.0) == HEARTBEAT_S - 10
    assert schedule.next_check_s(status(1, "Held"), 200.0) == 0.0


def test_a_change_that_could_not_be_written_is_checked_at_the_next_interval() -> None:
    schedule = written(status(1, "Held"))
    assert schedule.next_check_s(status(2, "Held"), 100.0) == 1.0
