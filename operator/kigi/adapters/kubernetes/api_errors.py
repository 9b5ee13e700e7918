"""Answers of the API server as Kigi's errors: the one mapping that every client uses.

| answer                          | error                 | what happens next                                |
|---------------------------------|-----------------------|--------------------------------------------------|
| 400, 422                        | SpecInvalid           | a person corrects the object                     |
| 401                             | Unauthorized          | retried with a fresh token                       |
| 403                             | Forbidden             | an administrator grants the right                |
| 403, denied by admission        | SpecInvalid           | a person corrects the object                     |
| 403, quota or ending namespace  | Waiting               | retried                                          |
| 404                             | NotFound              | a result of a read; else retried                 |
| 409; 422 of a JSON patch's test | Conflict              | decided again on the newer object                |
| 410                             | Expired               | listed again                                     |
| 429                             | Throttled             | retried with backoff                             |
| 5xx, no answer                  | Unreachable           | retried with backoff                             |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kigi.adapters import shallow_json
from kigi.errors import (
    Conflict,
    Expired,
    Forbidden,
    KigiError,
    NotFound,
    SpecInvalid,
    Throttled,
    Unauthorized,
    Unreachable,
    Waiting,
)

_NOT_YET = re.compile("exceeded quota|is being terminated")
_DENIED = re.compile("denied the request|denied request")
"""Of admission webhooks, and of admission policies."""
_BY_STATUS: Mapping[int, type[KigiError]] = {
    400: SpecInvalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: SpecInvalid,
    429: Throttled,
}
_SHOWN = 500
"""Bytes of an answer without JSON that an error shows."""


def decode(status: int, text: bytes, what: str, loads: Callable[[bytes], Any] = shallow_json.loads) -> dict[str, Any]:
    """The JSON of a successful answer; raises the error of any other. ``what`` is the request, such as ``GET /api``.

    The answer is empty for a success without a body, as of KubeVirt's subresources.
    """
    try:
        answer: dict[str, Any] = loads(text) if text else {}
    except ValueError:
        answer = {"message": text[:_SHOWN].decode(errors="replace")}
    if status < 300:
        return answer
    raise error_of(status, answer, what)


def error_of(status: int, answer: Mapping[str, Any], what: str) -> KigiError:
    """The error of an HTTP status and its ``Status`` object. Its text has the server's message.

    >>> error_of(404, {"message": 'nodes "n" not found'}, "GET /api/v1/nodes/n")
    NotFound('GET /api/v1/nodes/n: nodes "n" not found')
    """
    message = str(answer.get("message") or answer.get("reason") or f"HTTP {status}")
    return _kind_of(status, answer, message, what)(f"{what}: {message}")


def _kind_of(status: int, answer: Mapping[str, Any], message: str, what: str) -> type[KigiError]:
    if status == 403 and _NOT_YET.search(message):
        return Waiting
    if status == 403 and _DENIED.search(message):
        return SpecInvalid
    # A failed "test" of a JSON patch names no causes; an invalid object names its fields.
    if status == 422 and what.startswith("PATCH") and not (answer.get("details") or {}).get("causes"):
        return Conflict
    return _BY_STATUS.get(status, Unreachable)


def no_answer(what: str, cause: BaseException | str, hint: str = "") -> Unreachable:
    """The error of a request without an answer: no connection, a broken one, or a timeout."""
    text = str(cause) or type(cause).__name__
    return Unreachable(f"{what}: the API server does not answer: {text}{hint}")
