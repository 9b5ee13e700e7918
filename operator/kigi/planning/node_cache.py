"""What the cache of one node shall hold and forget."""

from __future__ import annotations

from collections.abc import Iterable

from kigi.api.node_cache import DISK_PRIORITY, MAX_CAPTURES, MAX_LAYERS, NodeCacheSpec, WantedLayer
from kigi.domain import names
from kigi.domain.layers import Digest
from kigi.planning.steps import ApplyObject, DeleteObject, Plan, ReleaseVolume, Step
from kigi.planning.view import DesiredChain, NodeView

PRIORITY_DISK = DISK_PRIORITY
"""Layers of a disk that a VM waits for."""
PRIORITY_PREFETCH = 10
"""Layers of a state that may run later."""


def plan_node_cache(view: NodeView) -> Plan:
    """Next steps for one node's cache.

    A volume is released only when the daemon, having read the order to discard it, no longer reports its overlay; or
    when the node is gone, and the overlay with it. A node that comes back has overlays whose volumes were released:
    they are discarded too. What does not fit into one object waits: layers of the lowest priority, and overlays that
    are discarded when others are gone. O(layers of the node).
    """
    if not view.node_exists:
        released: list[Step] = [ReleaseVolume(volume) for volume, _ in view.terminating]
        return Plan((*released, DeleteObject("NodeCache", view.name)) if view.cache_exists else tuple(released))
    if not (view.has_driver or view.cache_exists):
        waiting = f"the daemon of node {view.name}" if view.terminating else ""
        return Plan(waiting_for=waiting)
    discard = sorted(handle for volume, handle in view.terminating if volume not in view.terminating_in_use)
    discard.extend(orphans(view))
    wanted = NodeCacheSpec(
        layers=wanted_layers(view.desired),
        discard=sorted(discard[:MAX_LAYERS]),
        captures=list(view.captures)[:MAX_CAPTURES],
    )
    steps: list[Step] = []
    if view.present != wanted:
        steps.append(ApplyObject(build_node_cache(view.name, wanted)))
    steps.extend(
        ReleaseVolume(volume)
        for volume, handle in view.terminating
        if view.spec_current and handle in view.discard and handle not in view.volumes
    )
    return Plan(tuple(steps), waiting_for=f"{len(discard)} overlays to be deleted" if discard else "")


def orphans(view: NodeView) -> list[str]:
    """Overlays to discard although no volume that is being deleted asks for it, by handle.

    Only of a report that the daemon made with the present NodeCache before it, or that are ordered away already: an
    order does not come and go with each generation. What a capture copies stays until it is done.
    """
    copied = {order.volume for order in view.captures}
    return sorted(h for h in view.nameless - copied if view.spec_current or h in view.discard)


def wanted_layers(wishes: Iterable[DesiredChain]) -> list[WantedLayer]:
    """Every layer of the wishes once, with the highest priority that any gives it, by digest; at most MAX_LAYERS."""
    wanted: dict[Digest, WantedLayer] = {}
    for wish in wishes:
        for layer in wish.chain:
            other = wanted.get(layer.digest)
            if other is not None and other.priority >= wish.priority and (other.pinned or not wish.pinned):
                continue
            wanted[layer.digest] = WantedLayer(
                digest=layer.digest,
                size_bytes=layer.size_bytes,
                virtual_size_bytes=layer.virtual_size_bytes,
                parent=layer.parent,
                repository=layer.repository,
                priority=max(wish.priority, other.priority if other else 0),
                pinned=wish.pinned or (other is not None and other.pinned),
            )
    first = sorted(wanted.values(), key=lambda layer: (not layer.pinned, -layer.priority, layer.digest))
    return sorted(first[:MAX_LAYERS], key=lambda layer: layer.digest)


def build_node_cache(node: str, spec: NodeCacheSpec) -> dict[str, object]:
    """NodeCache of a node; its status belongs to the node's daemon."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "NodeCache",
        "metadata": {"name": node},
        "spec": spec.to_api(),
    }
