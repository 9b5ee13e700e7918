"""Keys of the work queue: which object to reconcile."""

from __future__ import annotations

from typing import Literal, NamedTuple

KeyKind = Literal[
    "image",
    "system",
    "deployment",
    "instance",
    "node",
    "claim",
    "plugin",
    "capture",
    "reset",
    "prefetch",
    "grant",
    "repository",
    "quota",
]


class Key(NamedTuple):
    """One object to reconcile; ``reconcilers.RECONCILERS`` has a function for each kind."""

    kind: KeyKind
    namespace: str
    """Empty for a node, the Plugin and a repository."""
    name: str


def node_key(name: str) -> Key:
    """The cache of a node."""
    return Key("node", "", name)


SWEEP_KEY = Key("repository", "", "")
"""No repository: removes the settings of repositories that do not exist any more."""
