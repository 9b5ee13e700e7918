"""What is said to the API server and heard from it, whichever client speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kigi.errors import Conflict, Forbidden, KigiError, SpecInvalid, Unreachable, Waiting

JSON = "application/json"
ACCEPT = f"{JSON}, */*;q=0.5"
"""KubeVirt answers 406 to JSON alone where it answers without a body: pause, unpause, freeze."""
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
PAGE = 1000
"""Objects of one page of a listing: about 5 MB of JSON for VMs, well below what one answer may take in time."""


def translate(status: int, answer: Mapping[str, Any], what: str) -> KigiError:
    """Our error for an answer of the API server, with the server's own words."""
    message = str(answer.get("message") or answer.get("reason") or f"HTTP {status}")
    text = f"{what}: {message}"
    causes = (answer.get("details") or {}).get("causes")
    match status:
        case 409:
            return Conflict(text)
        case 422 if what.startswith("PATCH") and not causes:
            # A failed "test" of a JSON patch; a refused object names its fields as causes.
            return Conflict(text)
        case 400 | 422:
            return SpecInvalid(text)
        case 403 if re.search("exceeded quota|is being terminated", message):
            return Waiting(text)
        case 403 if re.search("denied the request|denied request", message):
            return SpecInvalid(text)
        case 403:
            return Forbidden(text)
    return Unreachable(text)
