"""Versions of Kigi, and how far operator and daemons may be apart."""

from __future__ import annotations

import re

MAX_MINORS = 1
"""Minor versions that operator and daemon may be apart: an upgrade replaces one of them first."""
_VERSION = re.compile(r"^v?(\d{1,9})\.(\d{1,9})(?:[.\-+a-z]|$)")


def minor_of(version: str) -> tuple[int, int] | None:
    """Major and minor number; None for a text that is no version.

    >>> minor_of("0.2.0rc1")
    (0, 2)
    """
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2])) if match else None


def version_skew(node: str, daemon: str, operator: str) -> str:
    """Why the two versions are too far apart, with the remedy; empty if they are not, or one of them is not known."""
    ours, theirs = minor_of(daemon), minor_of(operator)
    if ours is None or theirs is None or (ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= MAX_MINORS):
        return ""
    side = "daemon" if ours < theirs else "operator"
    return (
        f"the cache daemon of node {node} has version {daemon}, and the operator {operator}: they may be at most "
        f"{MAX_MINORS} minor version apart; upgrade the {side} to the other's version"
    )
