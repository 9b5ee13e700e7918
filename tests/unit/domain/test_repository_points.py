"""Verdicts on a bucket by the answers of its server; a real server is in tests/integration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.domain.repository_points import Answer, Answers, has_failed, points_of

DENIED = Answer(403, "AccessDenied")
LOCK = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 90}}}
GOOD = Answers(
    versioning=Answer(200, value={"Status": "Enabled"}),
    object_lock=Answer(200, value={"ObjectLockConfiguration": LOCK}),
    put_twice=(Answer(200), Answer(412, "PreconditionFailed")),
    put_other_content=Answer(400, "XAmzContentSHA256Mismatch"),
    reader_put=DENIED,
    reader_delete=DENIED,
    writer_delete=DENIED,
    writer_delete_version=DENIED,
)


def verdicts(answers: Answers) -> dict[str, str]:
    return {point.name: point.verdict for point in points_of(answers)}


def changed(**answers: Any) -> list[str]:
    """Verdicts that are not ok."""
    return [f"{point.name}: {point.verdict}" for point in points_of(replace(GOOD, **answers)) if point.verdict != "ok"]


def test_a_bucket_that_survives_is_ok() -> None:
    assert set(verdicts(GOOD).values()) == {"ok"}
    assert not has_failed(points_of(GOOD))
    assert next(point for point in points_of(GOOD) if point.name == "object lock").found == "GOVERNANCE, 90 days"


def test_without_answers_nothing_is_known() -> None:
    points = points_of(Answers())
    assert {point.verdict for point in points} == {"unknown"}
    assert all(point.remedy for point in points)
    assert not has_failed(points)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(200, value={}), "not ok"),
        (Answer(200, value={"Status": "Suspended"}), "not ok"),
        (Answer(501, "NotImplemented"), "not ok"),
        (DENIED, "unknown"),
        (Answer(503, "SlowDown"), "unknown"),
    ],
)
def test_versioning(answer: Answer, verdict: str) -> None:
    assert changed(versioning=answer) == [f"versioning: {verdict}"]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(404, "ObjectLockConfigurationNotFoundError"), "not ok"),
        (Answer(200, value={"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}), "not ok"),
        (Answer(200, value={"ObjectLockConfiguration": {**LOCK, "ObjectLockEnabled": ""}}), "not ok"),
        (Answer(405, "MethodNotAllowed"), "not ok"),
        (DENIED, "unknown"),
    ],
)
def test_object_lock(answer: Answer, verdict: str) -> None:
    assert changed(object_lock=answer) == [f"object lock: {verdict}"]


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ((Answer(200), Answer(200)), "not ok"),
        ((Answer(501, "NotImplemented"),) * 2, "not ok"),
        ((DENIED, DENIED), "unknown"),
        ((Answer(500, "InternalError"),) * 2, "unknown"),
        ((), "unknown"),
    ],
)
def test_conditional_writes(answers: tuple[Answer, ...], verdict: str) -> None:
    assert changed(put_twice=answers) == [f"stored layers are not replaced: {verdict}"]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(200), "not ok"),
        (Answer(412, "PreconditionFailed"), "not ok"),
        (DENIED, "unknown"),
        (Answer(500), "unknown"),
    ],
)
def test_signed_content(answer: Answer, verdict: str) -> None:
    assert changed(put_other_content=answer) == [f"only signed content is stored: {verdict}"]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(200), "not ok"),
        (Answer(412, "PreconditionFailed"), "not ok"),
        (Answer(204), "not ok"),
        (Answer(404, "NoSuchVersion"), "not ok"),
        (Answer(400, "InvalidArgument"), "unknown"),
        (Answer(404), "unknown"),
        (Answer(404, "UnknownOperation"), "unknown"),
        (Answer(405, "MethodNotAllowed"), "unknown"),
        (Answer(501, "NotImplemented"), "unknown"),
        (Answer(403, "InvalidAccessKeyId"), "unknown"),
        (Answer(403, "SignatureDoesNotMatch"), "unknown"),
        (Answer(503, "SlowDown"), "unknown"),
    ],
)
def test_rights_that_a_user_must_not_have(answer: Answer, verdict: str) -> None:
    assert changed(reader_put=answer) == [f"reader may not write: {verdict}"]
    assert changed(reader_delete=answer) == [f"reader may not delete: {verdict}"]
    assert changed(writer_delete=answer) == [f"writer may not delete: {verdict}"]
    assert changed(writer_delete_version=answer) == [f"writer may not delete versions: {verdict}"]
