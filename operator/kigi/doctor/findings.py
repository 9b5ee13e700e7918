"""The result of one check of one object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error", "not checked"]
STATES: tuple[State, ...] = ("error", "warning", "not checked", "ok")
"""From the most to the least urgent."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of ``kigi doctor``."""

    check: str
    """Name of the check, such as ``clocks``."""
    state: State
    object: str
    """``Kind/name``, or a part of the cluster."""
    sentence: str
    """What was found."""
    remedy: str = ""
    """What to do; empty if nothing has to be done."""


def has_errors(findings: Iterable[Diagnosis]) -> bool:
    """Whether the exit code is 1. Warnings, and what could not be checked, are no errors."""
    return any(finding.state == "error" for finding in findings)


def in_order(findings: Iterable[Diagnosis]) -> list[Diagnosis]:
    """The most urgent first; equal ones in their order."""
    return sorted(findings, key=lambda finding: STATES.index(finding.state))
