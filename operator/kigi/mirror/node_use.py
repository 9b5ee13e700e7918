"""What instances use of nodes: memory and places by their volumes, and what is decided but not in the mirror yet.

Many instances are planned at the same time, each from a mirror that lacks the volumes of the others. A plan
therefore reserves its placements in the same step of the event loop, before its first request: the next plan sees
them. A reservation counts until the plan is carried out; then the volumes count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from kigi.domain.layers import Digest, Layer

InstanceKey = tuple[str, str, str]
"""(namespace, deployment, instance)."""
Bytes = Mapping[str, int]
"""By node; a node without memory in use may be in it: it has disks."""
LAYERS_FORGOTTEN_AFTER_S = 60.0
"""A node's NodeCache lists the layers of new volumes after a moment. If it never does, they were not needed."""


@dataclass(slots=True)
class NodeUse:
    """``clock`` returns monotonic seconds; ``changed_node`` is called with a node whose use has changed."""

    clock: Callable[[], float]
    changed_node: Callable[[str], None] = lambda node: None
    memory: Counter[str] = field(default_factory=Counter)
    """Bytes in use on each node by all instances."""
    load: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By deployment: number of its instances that have disks on each node."""
    _of: dict[InstanceKey, Bytes] = field(default_factory=dict)
    _stale: set[InstanceKey] = field(default_factory=set)
    _reserved: dict[InstanceKey, Bytes] = field(default_factory=dict)
    _layers: dict[str, dict[Digest, tuple[Layer, float]]] = field(default_factory=lambda: defaultdict(dict))

    def changed(self, key: InstanceKey) -> None:
        """Notes that a volume or VM of the instance has changed."""
        self._stale.add(key)

    def all_changed(self) -> None:
        """Notes that the memory of any VM may have changed."""
        self._stale.update(self._of)

    def refresh(self, compute: Callable[[InstanceKey], Bytes]) -> None:
        """Counts what has changed. O(changed instances)."""
        for key in [key for key in self._stale if key not in self._reserved]:
            self._stale.discard(key)
            self._set(key, compute(key))

    def of(self, key: InstanceKey) -> Bytes:
        """Bytes that the instance uses on each node that has its disks."""
        return self._of.get(key, {})

    def reserve(self, key: InstanceKey, use: Bytes, layers: Mapping[str, Mapping[Digest, Layer]]) -> None:
        """Counts a plan that is about to be carried out, in place of the volumes that the instance has now.

        ``layers``: those of disks that the plan creates, by node.
        """
        self._reserved[key] = use
        self._set(key, use)
        now = self.clock()
        for node, wanted in layers.items():
            self._layers[node].update({digest: (layer, now) for digest, layer in wanted.items()})
            self.changed_node(node)

    def release(self, key: InstanceKey) -> None:
        """Counts the instance's volumes again."""
        if self._reserved.pop(key, None) is not None:
            self._stale.add(key)

    def clear_reservations(self) -> None:
        """Forgets what another operator may have decided otherwise."""
        for key in list(self._reserved):
            self.release(key)
        for node in self._layers:
            self.changed_node(node)
        self._layers.clear()

    def nodes_with_requests(self) -> Set[str]:
        """Nodes on which ``requested_layers`` may differ from its last result."""
        return self._layers.keys()

    def requested_layers(self, node: str, listed: Callable[[], Set[Digest]]) -> Mapping[Digest, Layer]:
        """Layers that are about to be requested on the node; ``listed`` returns those that its NodeCache lists."""
        pending = self._layers.get(node)
        if not pending:
            return {}
        known, oldest = listed(), self.clock() - LAYERS_FORGOTTEN_AFTER_S
        for digest in [digest for digest, (_, at) in pending.items() if digest in known or at < oldest]:
            del pending[digest]
        if not pending:
            del self._layers[node]
        return {digest: layer for digest, (layer, _) in pending.items()}

    def _set(self, key: InstanceKey, use: Bytes) -> None:
        load = self.load[key[:2]]
        for node, used in self._of.pop(key, {}).items():
            self.memory[node] -= used
            load[node] -= 1
            self.changed_node(node)
        for node, used in use.items():
            self.memory[node] += used
            load[node] += 1
            self.changed_node(node)
        if use:
            self._of[key] = use
        if not +load:
            del self.load[key[:2]]
