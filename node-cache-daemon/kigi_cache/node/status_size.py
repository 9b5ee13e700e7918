"""Keeps a NodeCache's status below its limit of size: a larger one would be refused, and lost whole. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from kigi.api.base import Model
from kigi.api.node_cache import MAX_REPORTED, MAX_STATUS_BYTES, CachedLayer, CaptureReport, NodeCacheStatus

MESSAGES = 20
"""Layers, and copies, that keep their message when the status is too large."""
_SMALL = 400
"""A list of so few items fits at any length of its texts."""

_MARGIN = 64
"""Bytes of the counter of omitted layers."""

R = TypeVar("R", CachedLayer, CaptureReport)


def fitted(status: NodeCacheStatus, limit_bytes: int = MAX_STATUS_BYTES) -> NodeCacheStatus:
    """The status without what it can spare: first messages, then idle layers, then others, the last digests first.

    ``omitted_layers`` counts the layers that it leaves out. The operator places disks without knowing of these.
    """
    if len(status.layers) + len(status.volumes) + len(status.captures) <= _SMALL or _size(status) <= limit_bytes:
        return status
    layers = sorted(_with_few_messages(status.layers), key=_is_idle)
    status = status.model_copy(update={"layers": [], "captures": _with_few_messages(status.captures)})
    kept = _fitting(layers, limit_bytes - _size(status) - _MARGIN)
    shown = sorted(layers[:kept], key=lambda layer: layer.digest)
    return status.model_copy(update={"layers": shown, "omitted_layers": status.omitted_layers + len(layers) - kept})


def most_layers(layers: Sequence[CachedLayer]) -> list[CachedLayer]:
    """At most as many layers as the list may have; idle ones go first."""
    return sorted(sorted(layers, key=_is_idle)[:MAX_REPORTED], key=lambda layer: layer.digest)


def _is_idle(layer: CachedLayer) -> bool:
    return layer.need == "Idle"


def _fitting(items: Sequence[Model], free_bytes: int) -> int:
    """Number of items, from the first, whose JSON fits with its commas."""
    for number, item in enumerate(items):
        free_bytes -= _size(item) + 1
        if free_bytes < 0:
            return number
    return len(items)


def _with_few_messages(items: Sequence[R]) -> list[R]:
    silent = set([number for number, item in enumerate(items) if item.message][MESSAGES:])
    return [item.model_copy(update={"message": None}) if n in silent else item for n, item in enumerate(items)]


def _size(model: Model) -> int:
    return len(json.dumps(model.to_api(), separators=(",", ":"), ensure_ascii=False).encode(errors="replace"))
