"""The JSON patch that turns a stored status into another one: only what differs is sent, stored and watched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

KEYS = ("name", "type")
"""Fields that identify the items of lists: of machines and of conditions."""
Operation = dict[str, Any]


def status_operations(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Operation]:
    """Operations (RFC 6902) on ``/status``; the whole status if there is no stored one.

    A list whose items have the same keys in the same order is changed item by item. The key of each changed item is
    tested: if the stored list is another one than ``old``, the patch is refused as a whole.
    """
    if not old:
        return [{"op": "add", "path": "/status", "value": dict(new)}]
    found: list[Operation] = []
    for field, value in new.items():
        if field not in old or old[field] != value:
            found += _changed_field(f"/status/{field}", old.get(field), value)
    found += [{"op": "remove", "path": f"/status/{field}"} for field in old if field not in new]
    return found


def _changed_field(path: str, old: Any, new: Any) -> Iterator[Operation]:
    key = _common_key(old, new) if isinstance(old, list) and isinstance(new, list) else None
    if key is None:
        yield {"op": "add", "path": path, "value": new}
        return
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        if before != after:
            yield {"op": "test", "path": f"{path}/{number}/{key}", "value": before[key]}
            yield {"op": "replace", "path": f"{path}/{number}", "value": after}


def _common_key(old: Sequence[Any], new: Sequence[Any]) -> str | None:
    """The field whose values are the same in both lists, item by item; None: the lists have to be replaced."""
    if len(old) != len(new) or not all(isinstance(item, Mapping) for item in (*old, *new)):
        return None
    return next(
        (key for key in KEYS if all(key in a and a[key] == b.get(key) for a, b in zip(old, new, strict=True))), None
    )
