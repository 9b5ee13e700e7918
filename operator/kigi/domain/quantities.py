"""Kubernetes quantities, and sizes in readable units."""

from __future__ import annotations

import re

_SUFFIX = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(k|K|M|G|T|Ki|Mi|Gi|Ti|m)?$")


def parse_quantity(text: str) -> int:
    """Bytes of a quantity such as ``512Mi``, rounded up; ValueError for anything else."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"not a quantity: {text!r}; expected a number with Ki, Mi, Gi, Ti, K, M, G or T")
    number, suffix = float(match.group(1)), match.group(2) or ""
    if suffix == "m":
        return -(-int(number) // 1000)
    return int(-(-number * _SUFFIX["K" if suffix == "k" else suffix] // 1))


def format_bytes(size_bytes: int) -> str:
    """``size_bytes`` in the largest fitting binary unit, one decimal: ``1.2 GiB``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
