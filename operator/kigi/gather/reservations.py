"""Reserves what a plan is about to use of nodes, so that the next plan sees it before the volumes exist."""

from __future__ import annotations

from collections import Counter, defaultdict

from kigi.domain.layers import Digest, Layer
from kigi.mirror.node_use import InstanceKey
from kigi.mirror.store import Mirror
from kigi.planning.instance import InstancePlan
from kigi.planning.quotas import NewDisks
from kigi.planning.view import InstanceView
from kigi.planning.vm_manifest import machine_memory_bytes


def reserve(mirror: Mirror, view: InstanceView, plan: InstancePlan) -> InstanceKey:
    """Counts the plan's placements as decided, until ``release`` of the key. O(machines x chain)."""
    key = (view.namespace, view.deployment, view.name)
    if not any(placed.is_new for placed in plan.placed):
        return key
    use: Counter[str] = Counter()
    layers: dict[str, dict[Digest, Layer]] = defaultdict(dict)
    for placed in plan.placed:
        use[placed.node] += machine_memory_bytes(placed.target.blueprint.machine.hardware, view.instancetypes)
        if placed.is_new:
            for chain in placed.target.chains:
                layers[placed.node].update({layer.digest: layer for layer in chain})
    mirror.node_use.reserve(key, use, layers)
    slots = {(view.deployment, *placed.slot) for placed in plan.placed if placed.is_new}
    mirror.volume_use.reserve(key, NewDisks({node: found.values() for node, found in layers.items()}, slots))
    return key


def release(mirror: Mirror, key: InstanceKey) -> None:
    """Ends a reservation: the volumes exist, or will not."""
    mirror.node_use.release(key)
    mirror.volume_use.release(key)
