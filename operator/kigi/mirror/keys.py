"""Keys of the work queue: which object to reconcile."""

from __future__ import annotations

from typing import Literal, NamedTuple

KeyKind = Literal["image", "system", "deployment", "node", "claim", "plugin", "capture", "prefetch"]


class Key(NamedTuple):
    """One object to reconcile; ``reconcilers.RECONCILERS`` has a function for each kind."""

    kind: KeyKind
    namespace: str
    """Empty for a node and for the Plugin."""
    name: str


def node_key(name: str) -> Key:
    """The cache of a node."""
    return Key("node", "", name)
