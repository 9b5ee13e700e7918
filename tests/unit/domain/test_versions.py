"""Operator and daemons may be one minor version apart."""

from __future__ import annotations

import pytest

from kigi.domain.versions import minor_of, version_skew


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1.0", (0, 1)),
        ("v1.30.2", (1, 30)),
        ("0.2.0rc1", (0, 2)),
        ("0.2rc1", (0, 2)),
        ("1.7", (1, 7)),
        ("1.7-beta", (1, 7)),
        ("1.31+", (1, 31)),
        ("1", None),
        ("", None),
        ("dev", None),
        ("1.2_x", None),
        ("1." + "9" * 10, None),
    ],
)
def test_major_and_minor_are_read(text: str, expected: tuple[int, int] | None) -> None:
    assert minor_of(text) == expected


@pytest.mark.parametrize(
    ("daemon", "operator", "upgrade"),
    [
        ("0.1.0", "0.1.9", ""),
        ("0.1.0", "0.2.0", ""),
        ("0.2.0", "0.1.0", ""),
        ("0.9.0", "0.10.0", ""),
        ("0.1.0", "0.3.0", "upgrade the daemon"),
        ("0.3.0", "0.1.0", "upgrade the operator"),
        ("0.9.0", "1.0.0", "upgrade the daemon"),
        ("2.0.0", "1.9.0", "upgrade the operator"),
        ("unknown", "0.3.0", ""),
        ("0.1.0", "", ""),
    ],
)
def test_the_older_side_is_upgraded(daemon: str, operator: str, upgrade: str) -> None:
    found = version_skew("node-a", daemon, operator)
    assert bool(found) == bool(upgrade)
    assert upgrade in found
    assert not found or all(text in found for text in ("node-a", daemon, operator))
