"""Records the reasons that ``kigi why`` explained in the running test, for its marker ``why("Reason", ...)``."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable
from typing import Any

from kigi.cli.cluster import Access
from kigi.cli.output import Format
from kigi.cli.verbs.why import print_explanation
from kigi.errors import KigiError

EXPLAINED: set[str] = set()
"""Explained reasons; each had a cause."""


def record(entries: Iterable[dict[str, Any]]) -> set[str]:
    """Records and returns all reasons in an output of ``kigi why -o json``; AssertionError for one without a cause."""
    found: set[str] = set()
    for entry in entries:
        assert entry["cause"] != entry["reason"], f"{entry['reason']} has no cause"
        found |= {entry["reason"], *record(entry.get("because") or ())}
    EXPLAINED.update(found)
    return found


def explained(provoked: str | KigiError) -> dict[str, str]:
    """Runs ``kigi why REASON`` for the reason of an error that the test provoked; its output."""
    reason = provoked if isinstance(provoked, str) else provoked.reason
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert print_explanation(Access(), reason, Format.JSON) == 0
    answer: dict[str, str] = json.loads(text.getvalue())
    record([answer])
    return answer
