"""Single values of API objects: quantities, times and numbers that may be damaged."""

from __future__ import annotations

import functools
from datetime import datetime

from kigi.domain.quantities import parse_quantity


@functools.lru_cache(maxsize=1024)
def _quantity(text: str) -> int:
    try:
        return parse_quantity(text)
    except ValueError:
        return 0


def time_of(value: object) -> datetime | None:
    """An RFC 3339 time with its offset; None for anything else."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def bytes_of(value: object, default: str) -> int:
    """Bytes of a Kubernetes quantity, of ``default`` if it is unset, 0 if it is not a quantity."""
    return _quantity(str(value) if value else default)


def int_of(text: object) -> int:
    """The number in a label; 0 for anything else."""
    try:
        return int(str(text))
    except ValueError:
        return 0
