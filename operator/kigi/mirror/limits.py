"""How much of each namespace the operator keeps in memory, so that none can fill it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from kigi.adapters.kubernetes import resources
from kigi.errors import SpecInvalid
from kigi.mirror.indexed import ObjectKey

MAX_NAMESPACE_BYTES = 16 * 2**20
"""JSON of the specs that users wrote in one namespace; in memory they take up to ten times as much."""
MIN_OBJECT_BYTES = 1024
"""What each object counts at least, for its record and its keys."""
LIMITED = frozenset(
    resource.kind
    for resource in (
        resources.IMAGE,
        resources.SYSTEM,
        resources.DEPLOYMENT,
        resources.INSTANCE,
        resources.RESET,
        resources.CAPTURE,
        resources.PREFETCH,
        resources.GRANT,
    )
)
"""Kinds whose contents users decide."""
OVER_LIMIT = "(the namespace has more than Kigi reads)"
_KEPT = ("name", "deploymentRef")
"""Fields of a spec that stay: what an object belongs to is known even if the rest is not read."""


class NamespaceTooLarge(SpecInvalid):
    """The objects of a namespace have together more content than the operator keeps of one namespace."""

    reason = "NamespaceTooLarge"


class Limits:
    """Bytes that the objects of each namespace count."""

    def __init__(self) -> None:
        self._bytes: dict[tuple[str, ObjectKey], int] = {}
        self._totals: dict[str, int] = defaultdict(int)
        self._refused: set[tuple[str, ObjectKey]] = set()

    def take(self, kind: str, key: ObjectKey, body: Mapping[str, Any]) -> bool:
        """Counts the object in place of its former version; False, and it counts nothing: there is no space for it."""
        self.release(kind, key)
        if kind not in LIMITED:
            return True
        size_bytes = size_of(body)
        if self._totals[key[0] or ""] + size_bytes > MAX_NAMESPACE_BYTES:
            self._refused.add((kind, key))
            return False
        self._bytes[kind, key] = size_bytes
        self._totals[key[0] or ""] += size_bytes
        return True

    def release(self, kind: str, key: ObjectKey) -> None:
        """The object counts nothing any more."""
        self._refused.discard((kind, key))
        self._totals[key[0] or ""] -= self._bytes.pop((kind, key), 0)
        if not self._totals[key[0] or ""]:
            del self._totals[key[0] or ""]

    def admits(self, kind: str, key: ObjectKey, body: Mapping[str, Any]) -> bool:
        """Whether the object was refused, and there is space for it now."""
        total = self._totals.get(key[0] or "", 0)
        return (kind, key) in self._refused and total + size_of(body) <= MAX_NAMESPACE_BYTES


def size_of(body: Mapping[str, Any]) -> int:
    """Bytes that an object counts."""
    parts = (body.get("spec"), body["metadata"].get("finalizers"))
    return max(MIN_OBJECT_BYTES, len(json.dumps(parts)))


def without_content(body: Mapping[str, Any]) -> dict[str, Any]:
    """The object with what identifies it, and the mark of one that does not fit."""
    spec = body.get("spec")
    kept = {name: spec[name] for name in _KEPT if name in spec} if isinstance(spec, Mapping) else {}
    return {**body, "spec": {**kept, OVER_LIMIT: True}}
