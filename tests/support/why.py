"""What ``kigi why`` has told in the test that runs: what its marker ``why("Reason", ...)`` is held to."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable
from typing import Any

from kigi.cli.cluster import Access
from kigi.cli.output import Format
from kigi.cli.verbs.why import run_why
from kigi.errors import KigiError

TOLD: set[str] = set()
"""Reasons that were explained, each with a cause in words."""


def hear(entries: Iterable[dict[str, Any]]) -> set[str]:
    """The reasons in an answer of ``kigi why -o json``, down to the last; AssertionError for one without a cause."""
    found: set[str] = set()
    for entry in entries:
        assert entry["cause"] != entry["reason"], f"{entry['reason']} has no cause"
        found |= {entry["reason"], *hear(entry.get("because") or ())}
    TOLD.update(found)
    return found


def explained(provoked: str | KigiError) -> dict[str, str]:
    """What ``kigi why REASON`` says of an error, or of a reason, that was provoked."""
    reason = provoked if isinstance(provoked, str) else provoked.reason
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert run_why(Access(), reason, Format.JSON) == 0
    answer: dict[str, str] = json.loads(text.getvalue())
    hear([answer])
    return answer
