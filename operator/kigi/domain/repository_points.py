"""What a check of a repository's bucket finds: one verdict for each property, with a remedy; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["ok", "not ok", "unknown"]
PAGE = "docs/security.md"
GUIDE = f"see 'A bucket that survives it' in {PAGE}"
"""Where the set-up of a bucket is described."""
WRITE_KEY = "layers/kigi-write-probe"
"""An empty object beside the layers. It stays: a writer need not have the right to delete."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to one request. ``code`` is empty for success, or if the answer has none."""

    status: int
    code: str = ""
    value: Mapping[str, Any] | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the user lacks the right."""
        return self.status in (401, 403)

    @property
    def is_permitted(self) -> bool:
        """Whether the server would have carried it out: it did, or only a condition or the object was missing."""
        return 200 <= self.status < 300 or self.status in (409, 412) or self.code in ("NoSuchVersion", "NoSuchKey")

    @property
    def is_unknown_to_server(self) -> bool:
        """Whether the server does not have the operation."""
        return self.status in (405, 501)


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to everything that a check asks. None: no credentials were given to ask with."""

    versioning: Answer | None = None
    object_lock: Answer | None = None
    put_twice: tuple[Answer, ...] = ()
    """PutObject with ``If-None-Match: *`` of one key, twice."""
    put_other_content: Answer | None = None
    """PutObject of another content than the one that is signed."""
    reader_put: Answer | None = None
    reader_delete: Answer | None = None
    writer_delete: Answer | None = None
    writer_delete_version: Answer | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One property of a bucket."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    """Empty if the property is ok."""


def points_of(answers: Answers) -> list[Point]:
    """All points, in the order of their importance."""
    return [
        _conditional_writes(answers.put_twice),
        _signed_content(answers.put_other_content),
        _versioning(answers.versioning),
        _object_lock(answers.object_lock),
        _forbidden("reader may not write", "reader", "PutObject", answers.reader_put),
        _forbidden("reader may not delete", "reader", "DeleteObject", answers.reader_delete),
        _forbidden("writer may not delete", "writer", "DeleteObject", answers.writer_delete),
        _forbidden("writer may not delete versions", "writer", "DeleteObjectVersion", answers.writer_delete_version),
    ]


def has_failed(points: list[Point]) -> bool:
    """Whether a point is not ok; one that is unknown has not failed."""
    return any(point.verdict == "not ok" for point in points)


def _conditional_writes(answers: tuple[Answer, ...]) -> Point:
    name = "stored layers are not replaced"
    if any(answer.status in (409, 412) for answer in answers):
        return Point(name, "ok", "If-None-Match is honoured")
    if not answers or answers[-1].is_refused:
        found = "no credentials that may write" if not answers else f"PutObject: {_text(answers[-1])}"
        return Point(name, "unknown", found, "give credentials that may put objects below layers/")
    if answers[-1].status in (200, 501):
        return Point(name, "not ok", "If-None-Match is ignored", "use a server that has conditional writes")
    return Point(name, "unknown", _text(answers[-1]), "call again")


def _signed_content(answer: Answer | None) -> Point:
    name = "only signed content is stored"
    if answer is None or answer.is_refused:
        found = "no credentials that may write" if answer is None else f"PutObject: {_text(answer)}"
        return Point(name, "unknown", found, "give credentials that may put objects below layers/")
    if answer.status == 400:
        return Point(name, "ok", f"another content: {_text(answer)}")
    if answer.status in (200, 409, 412):  # stored now, or by an earlier check
        remedy = "use another server: a stolen node could store a false layer under a digest that is not stored yet"
        return Point(name, "not ok", "x-amz-content-sha256 is ignored", remedy)
    return Point(name, "unknown", _text(answer), "call again")


def _versioning(answer: Answer | None) -> Point:
    def verdict(value: Mapping[str, Any]) -> tuple[bool, str]:
        status = value.get("Status") or "never enabled"
        return status == "Enabled", str(status)

    remedy = "enable versioning, so that a layer that is replaced or deleted can be restored"
    return _setting("versioning", "GetBucketVersioning", answer, verdict, remedy)


def _object_lock(answer: Answer | None) -> Point:
    def verdict(value: Mapping[str, Any]) -> tuple[bool, str]:
        settings = value.get("ObjectLockConfiguration") or {}
        default = (settings.get("Rule") or {}).get("DefaultRetention") or {}
        length = [f"{default[unit]} {unit.lower()}" for unit in ("Days", "Years") if default.get(unit)]
        if settings.get("ObjectLockEnabled") != "Enabled":
            return False, "not enabled"
        return bool(length), f"{default.get('Mode')}, {length[0]}" if length else "no default retention"

    remedy = "enable object lock with a default retention, so that versions cannot be deleted"
    if answer is not None and answer.status == 404:
        answer = Answer(200, value={})
    return _setting("object lock", "GetObjectLockConfiguration", answer, verdict, remedy)


def _setting(
    name: str,
    right: str,
    answer: Answer | None,
    verdict: Callable[[Mapping[str, Any]], tuple[bool, str]],
    remedy: str,
) -> Point:
    if answer is None:
        return Point(name, "unknown", "no credentials to ask with", "set AWS_ACCESS_KEY_ID to the bucket's owner")
    if answer.is_unknown_to_server:
        return Point(name, "not ok", f"the server does not have it: {_text(answer)}", f"use one that has; {GUIDE}")
    if answer.status != 200:
        return Point(name, "unknown", _text(answer), f"call as a user with the right {right}, such as the owner")
    is_ok, found = verdict(answer.value or {})
    return Point(name, "ok", found) if is_ok else Point(name, "not ok", found, f"{remedy}; {GUIDE}")


def _forbidden(name: str, user: str, right: str, answer: Answer | None) -> Point:
    if answer is None:
        remedy = f"name the LayerRepository, or set KIGI_{user.upper()}_ACCESS_KEY_ID and _SECRET_ACCESS_KEY"
        return Point(name, "unknown", f"no credentials of the {user}", remedy)
    if answer.code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return Point(name, "unknown", _text(answer), f"correct the credentials of the {user}")
    if answer.is_refused:
        return Point(name, "ok", _text(answer))
    if answer.is_permitted:
        return Point(name, "not ok", f"{right} is permitted", f"take the right {right} from the {user}; {GUIDE}")
    if answer.is_unknown_to_server:
        remedy = f"check in the server's documentation that the {user} has no right {right}"
        return Point(name, "unknown", f"the server does not have it: {_text(answer)}", remedy)
    return Point(name, "unknown", _text(answer), f"call again, or check that the {user} has no right {right}")


def _text(answer: Answer) -> str:
    return answer.code or f"status {answer.status}"
