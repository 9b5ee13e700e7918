"""What the volumes of each namespace use, kept up to date with each change of a volume."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set

from kigi.api.quota import QuotaUsed
from kigi.domain.layers import Digest, Layer
from kigi.domain.observed import VolumeRecord
from kigi.planning.quotas import NewDisks, NodeDigests, OwnedInstance, OwnedSlot

InstanceKey = tuple[str, str, str]
"""(namespace, deployment, instance)."""


class VolumeUse:
    """Layers by node and machines by namespace; volumes that are being deleted do not count. O(chain) for a change.

    Reserved disks count as well, until their volumes exist.
    """

    def __init__(self) -> None:
        self._layers: dict[str, dict[str, Counter[Digest]]] = defaultdict(lambda: defaultdict(Counter))
        """Namespace -> node -> number of volumes on each layer."""
        self._slots: dict[str, Counter[OwnedSlot]] = defaultdict(Counter)
        self._instances: dict[str, Counter[OwnedInstance]] = defaultdict(Counter)
        """Number of machines with disks of each instance."""
        self._wanted_bytes: Counter[str] = Counter()
        self._virtual_bytes: dict[str, Counter[str]] = defaultdict(Counter)
        """Namespace -> node -> size of its virtual disks."""
        self._reserved: dict[InstanceKey, NewDisks] = {}

    def replace(self, old: VolumeRecord | None, new: VolumeRecord | None) -> None:
        """A volume has changed."""
        if new is not None and not new.meta.deleting:
            self._add_layers(new.deployment[0], new.node, new.chain)
            self._add_slot(new.deployment[0], (new.deployment[1], *new.slot))
            self._virtual_bytes[new.deployment[0]][new.node] += _virtual_bytes(new)
        if old is not None and not old.meta.deleting:
            self._remove_layers(old.deployment[0], old.node, old.chain)
            self._remove_slot(old.deployment[0], (old.deployment[1], *old.slot))
            self._remove_virtual(old.deployment[0], old.node, _virtual_bytes(old))

    def reserve(self, key: InstanceKey, disks: NewDisks) -> None:
        """Counts disks that are about to be made, until ``release``."""
        self.release(key)
        self._reserved[key] = disks
        for node, layers in disks.layers.items():
            self._add_layers(key[0], node, layers)
        for slot in disks.slots:
            self._add_slot(key[0], slot)

    def release(self, key: InstanceKey) -> None:
        """Ends a reservation, if there is one."""
        disks = self._reserved.pop(key, None)
        if disks is None:
            return
        for node, layers in disks.layers.items():
            self._remove_layers(key[0], node, layers)
        for slot in disks.slots:
            self._remove_slot(key[0], slot)

    def namespaces(self) -> Set[str]:
        """Namespaces that have volumes."""
        return self._slots.keys()

    def used(self, namespace: str) -> QuotaUsed:
        """Wanted bytes, instances and machines of the namespace."""
        return QuotaUsed(
            wanted_bytes=self._wanted_bytes[namespace],
            instances=len(self._instances.get(namespace, ())),
            machines=len(self._slots.get(namespace, ())),
        )

    def layers(self, namespace: str) -> NodeDigests:
        """Layers below the disks of the namespace, by node. Valid until the next change."""
        return {node: layers.keys() for node, layers in self._layers.get(namespace, {}).items()}

    def slots(self, namespace: str) -> Set[OwnedSlot]:
        """Machines of the namespace that have disks. Valid until the next change."""
        return self._slots[namespace].keys() if namespace in self._slots else frozenset()

    def instances(self, namespace: str) -> Set[OwnedInstance]:
        """Instances of the namespace that have disks. Valid until the next change."""
        return self._instances[namespace].keys() if namespace in self._instances else frozenset()

    def virtual_bytes(self, namespace: str) -> Mapping[str, int]:
        """Size of the namespace's virtual disks, by node. Valid until the next change."""
        return self._virtual_bytes.get(namespace, {})

    def _remove_virtual(self, namespace: str, node: str, size_bytes: int) -> None:
        counts = self._virtual_bytes[namespace]
        counts[node] -= size_bytes
        if counts[node] <= 0:
            del counts[node]
        if not counts:
            del self._virtual_bytes[namespace]

    def _add_layers(self, namespace: str, node: str, layers: Iterable[Layer]) -> None:
        counts = self._layers[namespace][node]
        for layer in layers:
            if not counts[layer.digest]:
                self._wanted_bytes[namespace] += layer.size_bytes
            counts[layer.digest] += 1

    def _remove_layers(self, namespace: str, node: str, layers: Iterable[Layer]) -> None:
        counts = self._layers[namespace][node]
        for layer in layers:
            if _less(counts, layer.digest):
                self._wanted_bytes[namespace] -= layer.size_bytes
        if not counts:
            del self._layers[namespace][node]
        if not self._layers[namespace]:
            del self._layers[namespace], self._wanted_bytes[namespace]

    def _add_slot(self, namespace: str, slot: OwnedSlot) -> None:
        if not self._slots[namespace][slot]:
            self._instances[namespace][slot[:2]] += 1
        self._slots[namespace][slot] += 1

    def _remove_slot(self, namespace: str, slot: OwnedSlot) -> None:
        if _less(self._slots[namespace], slot):
            _less(self._instances[namespace], slot[:2])
        if not self._slots[namespace]:
            del self._slots[namespace], self._instances[namespace]


def _virtual_bytes(volume: VolumeRecord) -> int:
    return volume.chain[-1].virtual_size_bytes if volume.chain else 0


def _less(counts: Counter, key: object) -> bool:  # type: ignore[type-arg]
    """Counts one less; True if none is left, and then the key is gone."""
    counts[key] -= 1
    if counts[key] > 0:
        return False
    del counts[key]
    return True
