"""The three-way difference that GitOps controllers compute for custom resources: a JSON merge patch.

Source: Argo CD, "Diffing": last applied, desired and live objects; kinds without a built-in schema are merged as JSON,
so lists are compared and replaced as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def three_way_patch(last: Any, desired: Any, live: Any) -> dict[str, Any]:
    """Merge patch from ``live``: what differs from ``desired``, and null for what left it since ``last``."""
    patch: dict[str, Any] = {}
    for key, value in desired.items():
        if key not in live:
            patch[key] = value
        elif isinstance(value, Mapping) and isinstance(live[key], Mapping):
            before = last.get(key)
            if inner := three_way_patch(before if isinstance(before, Mapping) else {}, value, live[key]):
                patch[key] = inner
        elif value != live[key]:
            patch[key] = value
    gone = last.keys() - desired.keys()
    return patch | {key: None for key in gone if key in live}


def drift(desired: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """What a GitOps controller shows as out of sync, with the last applied object of kubectl's annotation."""
    text = live["metadata"].get("annotations", {}).get(LAST_APPLIED)
    last = json.loads(text) if text else desired
    if not last.get("metadata", {}).get("annotations"):  # kubectl writes an empty map where there was none
        last.get("metadata", {}).pop("annotations", None)
    return three_way_patch(last, desired, live)
