"""When a daemon counts as alive: by this process's clock, since its Lease changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kigi.domain.heartbeat import SILENT_AFTER_S
from kigi.mirror.heartbeats import Heartbeats
from tests.support.bodies import lease_body

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD = "2025-12-31T00:00:00Z"


class Listener:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.changed: list[str] = []
        self.beats = Heartbeats(lambda: self.seconds, self.changed.append)
        self.version = 0

    def put(self, renewed: str = "2026-01-01T00:00:00Z", version: int | None = None, **options: Any) -> str | None:
        self.version += 1
        return self.beats.put(lease_body("n", version or self.version, renewed), NOW, **options)

    @property
    def alive(self) -> bool:
        return self.beats.is_alive("n")


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_a_node_is_back_once(listener: Listener) -> None:
    assert listener.put(is_event=True) == "n"
    assert listener.put("2026-01-01T00:00:30Z", is_event=True) is None
    listener.seconds = SILENT_AFTER_S
    assert not listener.alive
    assert listener.put("2026-01-01T00:10:00Z", is_event=True) == "n"


def test_a_listed_lease_that_is_old_proves_nothing_until_it_changes(listener: Listener) -> None:
    assert listener.put(OLD) is None
    assert not listener.alive
    assert listener.put("2025-12-31T00:00:30Z") == "n", "whatever its time"


def test_another_field_of_a_lease_is_no_heartbeat(listener: Listener) -> None:
    listener.put(is_event=True)
    listener.seconds = SILENT_AFTER_S
    assert listener.put(is_event=True) is None, "as after kubectl label"
    assert not listener.alive


def test_a_late_event_is_no_heartbeat(listener: Listener) -> None:
    listener.put("2026-01-01T00:01:00Z", version=9, is_event=True)
    listener.seconds = SILENT_AFTER_S
    assert listener.put("2026-01-01T00:00:30Z", version=8, is_event=True) is None
    assert not listener.alive


@pytest.mark.parametrize("renewed", ["", "yesterday", "2026-01-01T00:00:00"])
def test_a_time_that_cannot_be_read_proves_nothing(listener: Listener, renewed: str) -> None:
    listener.put(renewed)
    assert not listener.alive


@pytest.mark.parametrize(("age", "alive"), [(-119, True), (119, True), (-121, False), (121, False)])
def test_at_first_sight_both_clocks_decide(listener: Listener, age: int, alive: bool) -> None:
    listener.put((NOW - timedelta(seconds=age)).isoformat())
    assert listener.alive is alive


def test_a_lease_of_another_form_is_ignored(listener: Listener) -> None:
    lease = lease_body("n") | {"spec": {"holderIdentity": "m", "renewTime": "2026-01-01T00:00:00Z"}}
    assert listener.beats.put(lease, NOW, is_event=True) is None
    assert list(listener.beats) == []


def test_a_node_without_a_lease_is_silent(listener: Listener) -> None:
    listener.put(is_event=True)
    listener.beats.forget("n")
    assert not listener.alive
    assert list(listener.beats) == []


def test_a_node_falls_silent_once_and_only_without_a_heartbeat(listener: Listener) -> None:
    listener.put(is_event=True)
    listener.seconds = SILENT_AFTER_S - 1
    listener.put("2026-01-01T00:00:30Z", is_event=True)
    listener.seconds = SILENT_AFTER_S
    assert list(listener.beats.fallen_silent()) == []
    listener.seconds = 2 * SILENT_AFTER_S - 1
    assert list(listener.beats.fallen_silent()) == ["n"]
    assert list(listener.beats.fallen_silent()) == []


def test_a_change_is_a_node_that_comes_back_or_loses_its_lease_and_no_other_heartbeat(listener: Listener) -> None:
    listener.put(is_event=True)
    listener.put("2026-01-01T00:00:30Z", is_event=True)
    assert listener.changed == ["n"]
    listener.seconds = SILENT_AFTER_S
    listener.put("2026-01-01T00:10:00Z", is_event=True)
    assert listener.changed == ["n", "n"]
    listener.beats.forget("n")
    assert listener.changed == ["n", "n", "n"]


def test_a_node_that_is_heard_again_does_not_hide_one_that_is_not() -> None:
    seconds = 0.0
    beats = Heartbeats(lambda: seconds)
    for node in ("a", "b"):
        beats.put(lease_body(node), NOW, is_event=True)
    seconds = SILENT_AFTER_S - 1
    beats.put(lease_body("a", 2, "2026-01-01T00:00:30Z"), NOW, is_event=True)
    seconds = SILENT_AFTER_S
    assert list(beats.fallen_silent()) == ["b"]
