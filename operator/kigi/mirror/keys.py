"""Keys of the work queue: which object to reconcile."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Key(NamedTuple):
    """What is reconciled."""

    kind: Literal["image", "system", "deployment", "node", "claim", "plugin", "capture", "prefetch"]
    namespace: str
    """Empty for a node and for the Plugin."""
    name: str
