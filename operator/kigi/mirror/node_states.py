"""Nodes as placement sees them, kept from one reconcile to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kigi.planning.view import NodeState


class NodeStates:
    """The state of each node, which is built again only when something that it contains may have changed."""

    def __init__(self) -> None:
        self._states: dict[str, NodeState] = {}
        self._stale: set[str] = set()

    def changed(self, node: str) -> None:
        """Notes that the Node, its NodeCache, CSINode or heartbeat, or the use of the node has changed."""
        self._stale.add(node)

    def refresh(self, build: Callable[[str], NodeState | None], also: Iterable[str] = ()) -> Mapping[str, NodeState]:
        """All nodes, valid until the next change. ``also``: nodes whose state may have changed with time."""
        for name in self._stale.union(also):
            state = build(name)
            if state is not None:
                self._states[name] = state
            else:
                self._states.pop(name, None)
        self._stale.clear()
        return self._states
