"""What a NodeCache's status shows of each copy."""

from __future__ import annotations

import pytest

from kigi.api.node_cache import MAX_REPORT_MESSAGE
from kigi.errors import NoRoom, OverlayRejected, PublisherSilent
from kigi_cache.captures import reports
from kigi_cache.captures.reports import CopyFigures
from tests.support.copies import order


def test_a_check_is_possible_or_refused_with_its_cause() -> None:
    assert reports.checked(order(action="Check"), None).state == "Possible"
    found = reports.checked(order(action="Check"), NoRoom("full"))
    assert (found.state, found.reason, found.message) == ("Refused", "NoRoom", "full")


def test_a_copy_that_could_not_be_made_has_the_cause() -> None:
    found = reports.missing(order(), OverlayRejected("forged"))
    assert (found.state, found.reason, found.message) == ("Refused", "OverlayRejected", "forged")


@pytest.mark.parametrize(("action", "state"), [("Copy", "Refused"), ("Keep", "Lost")])
def test_a_copy_that_is_gone_is_lost_when_its_vm_runs_again(action: str, state: str) -> None:
    found = reports.missing(order(action=action), None)
    assert (found.state, found.reason) == (state, "CaptureMissing")
    assert "no copy c1" in str(found.message)


def test_a_copy_shows_its_cost_and_the_publishers_progress() -> None:
    result = {"state": "Storing", "digest": "sha256:" + "2" * 64, "sizeBytes": 9, "uploadedBytes": 4}
    found = reports.copied(order(), None, result, CopyFigures(40, 7), None)
    assert (found.state, found.size_bytes, found.uploaded_bytes) == ("Storing", 9, 4)
    assert (found.copied_bytes, found.copy_milliseconds) == (40, 7)


def test_a_dead_publisher_is_named_beside_the_state() -> None:
    found = reports.copied(order(), None, {}, None, PublisherSilent("dead"))
    assert (found.state, found.reason, found.message) == ("Copied", "PublisherSilent", "dead")


@pytest.mark.parametrize(
    "result",
    [
        {"state": "Unheard" * 2},
        {"sizeBytes": "many"},
        {"message": "x" * 5000},
        {"state": ["Stored"]},
        {"state": {}},
        {"state": None},
        {"sizeBytes": 2**63},
        {"uploadedBytes": -1},
        {"sizeBytes": 1e300},
        {"message": "\ud800"},
        {"unheard": 1, "state": 7},
    ],
    ids=str,
)
def test_a_result_that_is_none_is_ignored(result: dict[str, object]) -> None:
    assert reports.copied(order(), None, result, CopyFigures(40, 7), None).model_dump(exclude_defaults=True) == {
        "id": "c1",
        "state": "Copied",
        "copied_bytes": 40,
        "copy_milliseconds": 7,
    }


@pytest.mark.parametrize("state", ["Stored", "Unheard"])
def test_the_publisher_cannot_speak_for_another_copy(state: str) -> None:
    found = reports.copied(order("c1"), "a1", {"id": "c2", "copyUid": "b2", "state": state}, None, None)
    assert (found.id, found.copy_uid) == ("c1", "a1")


def test_a_long_cause_is_cut() -> None:
    found = reports.checked(order(action="Check"), NoRoom("x" * 10_000))
    assert len(str(found.message).encode()) == MAX_REPORT_MESSAGE
