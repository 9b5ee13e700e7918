"""JSON merge patches (RFC 7396): templates that inherit from a parent state, and patches of VM specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge_template(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A child's template over its parent's. Their ``patch`` fields are joined into one patch, not applied."""
    merged = merge_patch(base, {key: value for key, value in change.items() if key != "patch"})
    if isinstance(change.get("patch"), Mapping):
        below = base.get("patch")
        merged["patch"] = join_patches(below if isinstance(below, Mapping) else {}, change["patch"])
    return merged


def join_patches(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """One patch with the effect of ``first`` followed by ``second``. Deletions (null) stay in it.

    An exception: if ``first`` deletes a field, or sets it to no map, and ``second`` sets it to a map, then the joined
    patch merges that map into the value from before both. RFC 7396 cannot express "replace by this map".
    """
    joined = dict(first)
    for key, value in second.items():
        below = joined.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        joined[key] = join_patches(below, value) if both else value  # type: ignore[arg-type]
    return joined


def merge_patch(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """``patch`` over ``base``: maps are merged, null deletes, other values replace. Source: RFC 7396."""
    merged = dict(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge_patch(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged
