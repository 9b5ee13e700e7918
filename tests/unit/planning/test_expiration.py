"""The end of a deployment's use: VMs are off from then on, by a clock that the test sets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kigi.planning.expiration import expiration_finding, has_expired, seconds_until_next
from kigi.planning.targets import instance_target, machine_targets
from tests.support.worlds import World, deployment_spec

END = datetime(2026, 1, 31, 18, tzinfo=UTC)
FIELD = {"time": END.isoformat(), "noticeSeconds": 3600, "action": "PowerOff"}


def spec(**changes: Any) -> Any:
    return deployment_spec(expiration={**FIELD, **changes})


@pytest.mark.parametrize(
    ("before_s", "status", "reason", "next_s"),
    [
        (7200, False, "ExpirationAhead", 3600),
        (3601, False, "ExpirationAhead", 1),
        (3600, True, "ExpiresSoon", 3600),
        (1, True, "ExpiresSoon", 1),
        (0, True, "Expired", None),
        (-86_400 * 365, True, "Expired", None),
    ],
)
def test_the_condition_announces_the_end_and_the_next_moment_is_known(
    before_s: int, status: bool, reason: str, next_s: float | None
) -> None:
    now = END - timedelta(seconds=before_s)
    found = expiration_finding(spec(), now)
    assert found is not None
    assert (found.status, found.reason) == (status, reason)
    assert "2026-01-31T18:00:00Z" in found.message
    assert seconds_until_next(spec(), now) == next_s
    assert has_expired(spec(), now) == (reason == "Expired")


def test_without_a_notice_the_end_is_announced_by_its_message_alone() -> None:
    now = END - timedelta(seconds=10)
    found = expiration_finding(spec(noticeSeconds=None), now)
    assert found is not None
    assert (found.status, seconds_until_next(spec(noticeSeconds=None), now)) == (False, 10)


def test_a_deployment_without_an_expiration_has_none_of_it() -> None:
    plain = deployment_spec()
    assert (expiration_finding(plain, END), seconds_until_next(plain, END), has_expired(plain, END)) == (
        None,
        None,
        False,
    )


@pytest.mark.parametrize(("before_s", "running"), [(1, True), (0, False), (-3600, False)])
def test_vms_are_off_from_the_end_on_whatever_else_is_set(before_s: int, running: bool) -> None:
    w = World(spec())
    w.change_instance("0", powerState="On", machines=[{"name": "db", "powerState": "On"}])
    view = replace(w.view(), now=END - timedelta(seconds=before_s))
    assert {target.running for target in machine_targets(view)} == {running}
    assert instance_target(view).running is running


def test_an_expiration_replaces_no_disk() -> None:
    w = World(spec())
    before = {t.machine: t.fingerprint() for t in machine_targets(replace(w.view(), now=END - timedelta(seconds=1)))}
    assert {t.machine: t.fingerprint() for t in machine_targets(replace(w.view(), now=END))} == before
