"""Quantities of Kubernetes, and sizes in readable units."""

from __future__ import annotations

import pytest

from kigi.domain.quantities import format_bytes, parse_quantity


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1", 1),
        ("512Mi", 512 * 2**20),
        ("1Gi", 2**30),
        ("2Ti", 2 * 2**40),
        ("1.5Gi", 3 * 2**29),
        ("1k", 1000),
        ("1M", 10**6),
        ("128974848000m", 128974848),
        ("1500m", 2),
        ("0.1Ki", 103),
    ],
)
def test_a_quantity_is_bytes_rounded_up(text: str, size_bytes: int) -> None:
    assert parse_quantity(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "Gi", "1gi", "-1Gi", "1 Gi", "1Gi ", "1e3x", "0x10", "1Ei1", "1e999", "1KiB", "."]
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (int(1.2 * 2**30), "1.2 GiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_a_size_has_the_largest_unit_that_fits(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text
