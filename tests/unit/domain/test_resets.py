"""Requests for resets: which are accepted, and what a disk must have."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.resets import MAX_LIVE, SETTLE, ResetRequest, ResetScope, newest_of, refusal, wanted_marks

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
REQUEST = ResetRequest("r", "u", NOON, "office")
SCOPE = ResetScope(
    "office",
    NOON - timedelta(days=1),
    {"1": NOON - timedelta(days=1), "2": NOON - timedelta(days=1), "red": None},
    {"1": frozenset({"db", "web"}), "2": frozenset({"db"}), "red": frozenset({"db"})},
    ("red", "2", "1"),
)


def about(*instances: str, machines: tuple[str, ...] = ()) -> ResetRequest:
    return replace(REQUEST, instances=frozenset(instances), machines=frozenset(machines))


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(about(), id="everything"),
        pytest.param(about("1", "2"), id="instances"),
        pytest.param(about("red"), id="instance-that-is-created-right-now"),
        pytest.param(about(machines=("web",)), id="machine-of-some-instances"),
        pytest.param(about("1", "2", machines=("web", "db")), id="machine-of-one-of-two"),
    ],
)
def test_a_request_whose_names_all_exist_is_accepted(request_: ResetRequest) -> None:
    assert refusal(request_, SCOPE) is None


@pytest.mark.parametrize(
    ("request_", "scope", "reason", "words"),
    [
        pytest.param(about(), None, "DeploymentMissing", "spec.deploymentRef.name: there is no", id="no-deployment"),
        pytest.param(
            about("1", "blue"), SCOPE, "DeploymentMissing", "no instance blue; it has 1, 2, red", id="instance"
        ),
        pytest.param(
            about(machines=("mail",)), SCOPE, "MachineUnknown", "machine mail; known are db, web", id="machine"
        ),
        pytest.param(
            about("2", "red", machines=("db", "web")), SCOPE, "MachineUnknown", "no instance of this", id="elsewhere"
        ),
        pytest.param(
            about(),
            replace(SCOPE, created=NOON + SETTLE + SECOND),
            "DeploymentMissing",
            "was created after this request",
            id="later-deployment",
        ),
        pytest.param(
            about("1", "2"),
            replace(SCOPE, instances={**SCOPE.instances, "2": NOON + SETTLE + SECOND}),
            "DeploymentMissing",
            "instance 2 of SystemDeployment office was created after",
            id="later-instance",
        ),
    ],
)
def test_one_unknown_name_refuses_the_whole_request_with_the_remedy(
    request_: ResetRequest, scope: ResetScope | None, reason: str, words: str
) -> None:
    error = refusal(request_, scope)
    assert error is not None
    assert (error.reason, words in str(error)) == (reason, True), str(error)


def test_objects_that_are_applied_together_with_the_request_are_meant() -> None:
    soon = NOON + SETTLE
    assert refusal(about("1"), replace(SCOPE, created=soon, instances=dict.fromkeys(SCOPE.instances, soon))) is None


def test_a_machine_that_a_state_may_still_have_is_no_error() -> None:
    unresolved = replace(SCOPE, machines={"1": frozenset({"db"})})
    assert refusal(about(machines=("web",)), unresolved) is None
    assert refusal(about("1", machines=("web",)), unresolved) is not None


def test_a_request_for_a_deployment_without_instances_is_accepted() -> None:
    assert refusal(about(machines=("web",)), ResetScope("office", NOON, {}, {})) is None


@pytest.mark.parametrize(
    ("made", "seen", "wanted"),
    [
        pytest.param(None, (), ("token:t", "request:u"), id="no-disk"),
        pytest.param(NOON - SECOND, (), ("token:t", "request:u"), id="older-disk"),
        pytest.param(NOON, (), ("token:t", "request:u"), id="disk-of-the-same-second"),
        pytest.param(NOON + SECOND, (), ("token:t",), id="newer-disk"),
        pytest.param(NOON - SECOND, ("request:u",), ("request:u", "token:t"), id="clock-was-set-back"),
        pytest.param(NOON + SECOND, ("request:u",), ("request:u", "token:t"), id="done"),
    ],
)
def test_a_disk_must_have_each_request_that_is_not_older(
    made: datetime | None, seen: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    assert wanted_marks([REQUEST], "db", ["token:t"], seen, made) == wanted


def test_a_request_for_other_machines_concerns_no_disk() -> None:
    assert wanted_marks([about(machines=("web",))], "db", [], (), None) == ()
    assert newest_of([about("2")], "1") == ()


@given(st.lists(st.integers(0, 50), max_size=3 * MAX_LIVE))
def test_of_many_requests_the_newest_count_in_the_order_of_their_times(ages: list[int]) -> None:
    requests = [replace(REQUEST, uid=str(n), created=NOON - age * SECOND) for n, age in enumerate(ages)]
    found = newest_of(requests, "1")
    assert len(found) == min(len(requests), MAX_LIVE)
    times = [request.created for request in found]
    assert times == sorted(times)
    left = [request.created for request in requests if request not in found]
    assert not left or max(left) <= min(times)
