"""Plan of one NodeCache: the layers that the node should hold, and the overlays that it should delete."""

from __future__ import annotations

from collections.abc import Iterable

from kigi.api.node_cache import DISK_PRIORITY, MAX_CAPTURES, MAX_LAYERS, NodeCacheSpec, WantedLayer
from kigi.domain import kinds, names
from kigi.domain.layers import Digest
from kigi.planning.steps import ApplyObject, DeleteObject, Plan, ReleaseVolume, Step
from kigi.planning.view import DesiredChain, NodeView

PRIORITY_DISK = DISK_PRIORITY
"""Of layers that a VM waits for."""
PRIORITY_PREFETCH = 10
"""Of layers of a state that may run later."""


def plan_node_cache(view: NodeView) -> Plan:
    """Next steps for one node's cache.

    A volume is released only when the daemon has read the order to discard it and no longer reports its overlay, or
    when the node is gone. A node that comes back has overlays whose volumes were released: these are discarded too.
    One object has a limited size: layers of the lowest priority are left out, and further overlays are discarded
    when the first are gone. O(layers of the node).
    """
    if not view.node_exists:
        released: list[Step] = [ReleaseVolume(volume) for volume, _ in view.terminating]
        return Plan((*released, DeleteObject(kinds.NODE_CACHE, view.name)) if view.cache_exists else tuple(released))
    if not (view.has_driver or view.cache_exists):
        waiting = f"the daemon of node {view.name}" if view.terminating else ""
        return Plan(waiting_for=waiting)
    discard = sorted(handle for volume, handle in view.terminating if volume not in view.terminating_in_use)
    discard.extend(orphans(view))
    wanted = NodeCacheSpec(
        layers=wanted_layers(view.desired, prefetched_layers(view.present) if view.keeps_prefetched else ()),
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
    """Handles of overlays to discard that have no volume, sorted.

    The daemon's report must be of the present generation: an older one may list overlays that were deleted since. An
    order to discard stays until it is carried out. An overlay that a capture copies stays until that is done.
    """
    copied = {order.volume for order in view.captures}
    return sorted(h for h in view.without_volume - copied if view.spec_current or h in view.discard)


def prefetched_layers(spec: NodeCacheSpec | None) -> list[WantedLayer]:
    """Layers that the NodeCache lists for prefetches only, and the layers below them, which may serve a disk too."""
    listed = {layer.digest: layer for layer in spec.layers} if spec is not None else {}
    found: dict[str, WantedLayer] = {}
    for top in listed.values():
        digest: str | None = top.digest if top.priority < PRIORITY_DISK else None
        while digest is not None and digest in listed and digest not in found:
            layer = listed[digest]
            found[digest] = layer.model_copy(update={"priority": min(layer.priority, PRIORITY_PREFETCH)})
            digest = layer.parent
    return list(found.values())


def wanted_layers(desired: Iterable[DesiredChain], kept: Iterable[WantedLayer] = ()) -> list[WantedLayer]:
    """Every layer of the chains and of ``kept`` once, by digest, with its highest priority; at most MAX_LAYERS."""
    wanted: dict[Digest, WantedLayer] = {Digest(layer.digest): layer for layer in kept}
    for each in desired:
        for layer in each.chain:
            other = wanted.get(layer.digest)
            if other is not None and other.priority >= each.priority and (other.pinned or not each.pinned):
                continue
            wanted[layer.digest] = WantedLayer(
                digest=layer.digest,
                size_bytes=layer.size_bytes,
                virtual_size_bytes=layer.virtual_size_bytes,
                parent=layer.parent,
                repository=layer.repository,
                priority=max(each.priority, other.priority if other else 0),
                pinned=each.pinned or (other is not None and other.pinned),
            )
    first = sorted(wanted.values(), key=lambda layer: (not layer.pinned, -layer.priority, layer.digest))
    return sorted(first[:MAX_LAYERS], key=lambda layer: layer.digest)


def build_node_cache(node: str, spec: NodeCacheSpec) -> dict[str, object]:
    """The NodeCache of a node without its status, which the daemon writes."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": kinds.NODE_CACHE,
        "metadata": {"name": node},
        "spec": spec.to_api(),
    }
