"""Single values of API objects, any of which may be missing or damaged."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime
from typing import Any

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
    """Bytes of a quantity; of ``default`` if there is none, 0 if it is damaged."""
    return _quantity(str(value) if value else default)


def int_of(text: object) -> int:
    """The integer of a label; 0 if it is none."""
    try:
        return int(str(text))
    except ValueError:
        return 0


def nested(body: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping at the end of a path of keys; empty if the path ends before.

    ``nested(vm, "spec", "template")`` is ``vm["spec"]["template"]``, or ``{}``.
    """
    found: Any = body
    for key in keys:
        found = found.get(key) or {}
    return found if isinstance(found, Mapping) else {}


def labels_of(body: Mapping[str, Any]) -> Mapping[str, str]:
    """Labels of an object."""
    return nested(body, "metadata", "labels")


def annotations_of(body: Mapping[str, Any]) -> Mapping[str, str]:
    """Annotations of an object."""
    return nested(body, "metadata", "annotations")
