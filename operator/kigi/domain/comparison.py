"""Comparison of a stored object with a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def includes(found: Any, wanted: Any) -> bool:
    """Whether ``found`` has every value of ``wanted``. Further fields do not matter: the API server adds defaults.

    Lists must have the same length, and are compared item by item.
    """
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(includes(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(includes, found, wanted))
    return bool(found == wanted)
