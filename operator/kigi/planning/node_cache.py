"""Plan of one NodeCache: the layers that the node should hold, and the overlays that it should delete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

from kigi.api.node_cache import MAX_CAPTURES, MAX_COUNT, MAX_LAYERS, MAX_SPEC_BYTES, NodeCacheSpec, Omitted
from kigi.domain import kinds, names
from kigi.domain.node_protocol import PROTOCOL, skew
from kigi.planning.layer_selection import prefetched_layers, select_layers, size_bytes
from kigi.planning.steps import ApplyObject, DeleteObject, PauseMachine, Plan, ReleaseVolume, Step
from kigi.planning.uploads import JOIN_RECHECK_S, due_joins, with_uploads
from kigi.planning.view import NodeView

PAUSE_RECHECK_S = 5.0
"""While a VM that fills the disk runs: the request to pause it may have met one of a capture to resume it."""
DISCARDS_BYTES = 32 * 2**10
"""What overlays to discard get at least: an overlay that is gone makes space for the next order."""


def plan_node_cache(view: NodeView) -> Plan:
    """Next steps for one node's cache.

    A volume is released only when the daemon has read the order to discard it and no longer reports its overlay, or
    when the node is gone: its Node was deleted, and the grace period has ended, or a person has deleted the NodeCache
    too. A node that comes back has overlays whose volumes were released: these are discarded too. One object has a
    limited size: prefetches give way to disks, ``spec.omitted`` has the numbers, and further overlays are discarded
    when the first are gone. A daemon that does not understand the operator's protocol gets no new orders. VMs that fill
    the node's disk are paused. Layers of captures get requests that store them, see ``uploads``.
    O(layers of the node).
    """
    if not view.node_exists:
        if view.cache_exists and view.grace_left_s > 0:
            return Plan(waiting_for=f"node {view.name} to come back", retry_after_s=view.grace_left_s)
        released: list[Step] = [ReleaseVolume(volume) for volume, _ in view.terminating]
        return Plan((*released, DeleteObject(kinds.NODE_CACHE, view.name)) if view.cache_exists else tuple(released))
    if not (view.has_driver or view.cache_exists):
        waiting = f"the daemon of node {view.name}" if view.terminating else ""
        return Plan(waiting_for=waiting)
    if why := skew(view.name, view.protocols):
        return Plan((*_with_protocol(view), *_released(view)), waiting_for=why)
    discard = sorted(handle for volume, handle in view.terminating if volume not in view.terminating_in_use)
    discard.extend(orphans(view))
    captures, uploads_delay_s = with_uploads(view.captures, view.uploads)
    joins = due_joins(view.name, captures, view.uploads)
    wanted = _spec(replace(view, captures=tuple(captures)), sorted(discard[:MAX_LAYERS]))
    steps: list[Step] = [PauseMachine(each.namespace, each.name, each.machine) for each in view.filling]
    steps.extend(joins)
    if view.present != wanted:
        steps.append(ApplyObject(build_node_cache(view.name, wanted)))
    return Plan(
        (*steps, *_released(view)),
        waiting_for=f"{len(discard)} overlays to be deleted" if discard else "",
        retry_after_s=min(
            filter(
                None,
                (PAUSE_RECHECK_S if view.filling else None, JOIN_RECHECK_S if joins else None, uploads_delay_s),
            ),
            default=None,
        ),
    )


def _spec(view: NodeView, discard: list[str]) -> NodeCacheSpec:
    """The spec within its limit of size: captures first, as they run together; then layers, beside some discards."""
    ordered = frozenset(order.id for order in view.present.captures) if view.present else frozenset()
    # A copy that exists keeps its order: the daemon deletes a copy without one.
    captures = sorted(view.captures, key=lambda order: order.id not in ordered)
    empty = NodeCacheSpec(
        node_name=view.name,
        operator_protocol=PROTOCOL,
        operator_version=view.operator_version,
        protocol=PROTOCOL,
        captures=captures[:MAX_CAPTURES],
        omitted=Omitted(disk_layers=MAX_COUNT, prefetch_layers=MAX_COUNT, captures=MAX_COUNT),
    )
    free = MAX_SPEC_BYTES - size_bytes(empty.to_api())
    discards = [len(handle) + len('"",') for handle in discard]
    listed = {layer.digest: layer for layer in view.present.layers} if view.present else {}
    refused = view.refused if view.spec_current else frozenset()
    kept = prefetched_layers(view.present) if view.keeps_prefetched else ()
    reserved = min(sum(discards), DISCARDS_BYTES)
    layers = select_layers(view.desired, kept, listed=listed, refused=refused, free_bytes=free - reserved)
    if sum(discards) > reserved:
        free -= sum(size_bytes(layer.to_api()) + 1 for layer in layers.layers)
    omitted = Omitted(
        disk_layers=layers.omitted.get("Disk", 0),
        prefetch_layers=layers.omitted.get("Prefetch", 0),
        captures=max(0, len(captures) - MAX_CAPTURES),
    )
    return empty.model_copy(
        update={
            "layers": layers.layers,
            "discard_volumes": discard[: sum(used <= free for used in accumulate(discards))],
            "omitted": omitted if any(omitted.to_api().values()) else None,
        }
    )


def _with_protocol(view: NodeView) -> Iterator[Step]:
    """Shows the daemon the operator's protocol and version; everything else stays as the daemon understands it."""
    if view.present is None:
        return
    shown = {"operator_protocol": PROTOCOL, "operator_version": view.operator_version}
    if (present := view.present.model_copy(update=shown)) != view.present:
        yield ApplyObject(build_node_cache(view.name, present))


def _released(view: NodeView) -> Iterator[Step]:
    """Volumes whose overlays the daemon has deleted by order."""
    for volume, handle in view.terminating:
        if view.spec_current and handle in view.discard and handle not in view.volumes:
            yield ReleaseVolume(volume)


def orphans(view: NodeView) -> list[str]:
    """Handles of overlays to discard that have no volume, sorted.

    The daemon's report must be of the present generation: an older one may list overlays that were deleted since. An
    order to discard stays until it is carried out. An overlay that a capture copies stays until that is done.
    """
    copied = {order.volume for order in view.captures}
    return sorted(h for h in view.without_volume - copied if view.spec_current or h in view.discard)


def build_node_cache(node: str, spec: NodeCacheSpec) -> dict[str, object]:
    """The NodeCache of a node without its status, which the daemon writes."""
    return {
        "apiVersion": names.NODE_API_VERSION,
        "kind": kinds.NODE_CACHE,
        "metadata": {"name": node},
        "spec": spec.to_api(),
    }
