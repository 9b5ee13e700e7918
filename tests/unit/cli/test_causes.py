"""Every reason of a condition, an event or a node has a cause, and every cause has a test that provokes it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from kigi import errors
from kigi.cli.causes import CAUSES, FINE, cause_of
from kigi.planning.capture_progress import CaptureStage

ROOT = Path(__file__).parents[3]
SOURCES = [*(ROOT / "operator/kigi").rglob("*.py"), *(ROOT / "node-cache-daemon/kigi_cache").rglob("*.py")]
PATTERNS = (
    r'^\s+reason(?:: ClassVar\[str\])? = "([A-Z][A-Za-z]+)"',  # errors
    r'reason="([A-Z][A-Za-z]+)"',  # summaries, reports
    r'"reason": "([A-Z][A-Za-z]+)"',
    r'Finding\(\s*[A-Z_]+,\s*[^,]+,\s*"([A-Z][A-Za-z]+)"',
    r'(?:_abandon|abandoned|Obstacle)\([^"]*"([A-Z][A-Za-z]+)"',
)
BY_THE_CLI_ALONE = {"FieldOwned", "NotReached", "NotConfirmed", "ExtraMissing"}


def reasons() -> set[str]:
    text = "\n".join(path.read_text() for path in SOURCES if "/cli/causes" not in str(path))
    return {found for pattern in PATTERNS for found in re.findall(pattern, text, re.MULTILINE)}


def test_every_reason_in_the_source_has_a_cause() -> None:
    found = reasons()
    assert {"NotSettled", "LayersWarming", "TooSlow", "NoRoom", "NodeNotReady"} <= found, "the search itself works"
    assert found - CAUSES.keys() - FINE - BY_THE_CLI_ALONE == set()


def test_every_cause_has_a_reason_in_the_source() -> None:
    text = "\n".join(path.read_text() for path in SOURCES if "/cli/causes" not in str(path))
    assert {reason for reason in CAUSES if f'"{reason}"' not in text} == set()


def test_a_reason_that_needs_action_has_a_remedy() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.NeedsAction) and kind is not errors.NeedsAction:
            assert cause_of(kind.reason).remedy, kind


@pytest.mark.parametrize("reason", ["SomethingNew", ""])
def test_a_reason_of_a_later_version_is_no_error(reason: str) -> None:
    assert cause_of(reason).remedy == ""


NEVER_IN_A_STATUS = {"Conflict", "LostLeadership", "Waiting", "Error"}
"""Errors that are retried immediately, or unexpected ones: they appear only in the log and the metrics."""


def test_every_cause_is_provoked_on_real_parts() -> None:
    """Each by a test with the marker ``why``, which fails unless ``kigi why`` explained the reasons of the marker."""
    tiers = [str(ROOT / "tests" / tier) for tier in ("integration", "e2e")]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "tests.support.why_markers", *tiers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    provoked = {line.removeprefix("WHY ") for line in done.stdout.splitlines() if line.startswith("WHY ")}
    assert provoked <= CAUSES.keys()
    assert CAUSES.keys() - provoked == NEVER_IN_A_STATUS


def test_every_stage_of_a_capture_that_goes_on_has_a_cause() -> None:
    assert set(get_args(CaptureStage)) - {"Complete", "Failed"} <= CAUSES.keys()
