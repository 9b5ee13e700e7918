"""Kubernetes quantities, and sizes in readable units."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_BINARY = {f"{prefix}i": 2 ** (10 * (n + 1)) for n, prefix in enumerate("KMGTPE")}
_DECIMAL = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
"""Exponents of ten. Kubernetes writes k; K is accepted too."""
_QUANTITY = re.compile(
    r"^([+]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}))(?:([eE][+-]?[0-9]{1,2})|([A-Za-z]{0,2}))$"
)


def parse_quantity(text: str) -> int:
    """Bytes of a quantity such as ``512Mi`` or ``1e9``, rounded up; ValueError for anything else."""
    match = _QUANTITY.fullmatch(text)
    suffix = match.group(3) or "" if match else None
    if match is None or (suffix not in _BINARY and suffix not in _DECIMAL):
        raise ValueError(f"not a quantity: {text[:40]!r}; expected a number with Ki, Mi, Gi, Ti, k, M, G or T")
    number = Decimal(match.group(1))
    factor = Decimal(_BINARY[suffix]) if suffix in _BINARY else Decimal(10) ** _DECIMAL[suffix or ""]
    exponent = int(match.group(2)[1:]) if match.group(2) else 0
    return math.ceil(number * factor * Decimal(10) ** exponent)


def format_bytes(size_bytes: int) -> str:
    """``size_bytes`` in the largest fitting binary unit, one decimal: ``1.2 GiB``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
