"""Which nodes hold the layers of a prefetch, and in which order they fetch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kigi.api.deployment import Placement
from kigi.api.prefetch import PrefetchedNode, PrefetchState, SystemPrefetchSpec, SystemPrefetchStatus
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes
from kigi.domain.systems import ResolvedSystem
from kigi.errors import KigiError, NodesMissing
from kigi.planning.candidates import candidate_nodes, is_selected, why_no_candidates
from kigi.planning.prefetch_orders import PrefetchOrders, order_of
from kigi.planning.steps import OrderPrefetch
from kigi.planning.view import NodeState


@dataclass(frozen=True, slots=True)
class PrefetchView:
    """Everything that the decision on one SystemPrefetch needs."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: SystemPrefetchSpec
    systems: Mapping[str, ResolvedSystem | KigiError]
    """Every state that the spec names, resolved, or why it cannot be."""
    nodes: Mapping[str, NodeState]
    listed: Mapping[str, frozenset[Digest]]
    """Layers that the NodeCache of each node lists."""
    orders: PrefetchOrders | None
    """The last orders of this operator, which NodeCaches may not show yet."""
    old_status: SystemPrefetchStatus
    """For conditions and counters; no decision is read from it."""
    now: datetime


@dataclass(frozen=True, slots=True)
class PrefetchPlan:
    """``nodes`` by name; ``error``: why they are fewer than the spec asks for, or why ``layers`` is empty."""

    nodes: tuple[PrefetchedNode, ...]
    layers: Mapping[Digest, Layer]
    """Layers of all states: what each of the nodes should hold."""
    orders: PrefetchOrders
    steps: tuple[OrderPrefetch, ...] = ()
    error: KigiError | None = None


def plan_prefetch(view: PrefetchView) -> PrefetchPlan:
    """The order to each node; pure. O(nodes x layers of the states).

    At most ``spec.parallelism`` nodes get the order Hold while they lack layers. A node that has this order already, by
    this operator or by its NodeCache, comes before all others and is not called back for them. A node that is refused
    layers or does not report does not count. If a state cannot be resolved, NodeCaches stay as they are.
    """
    systems = [view.systems[ref.name] for ref in view.spec.systems]
    resolved = [system for system in systems if isinstance(system, ResolvedSystem)]
    layers = {digest: layer for system in resolved for digest, layer in system.layers().items()}
    for system in systems:
        if isinstance(system, KigiError):
            return _unresolved(view, layers, system)
    missing = {name: missing_layers(layers, state.held) for name, state in view.nodes.items()}
    lacking = {name: total_bytes(found.values()) for name, found in missing.items()}
    ordered = {name for name in view.nodes if _is_ordered(view, name, layers)}
    chosen, error = _choose(view, lacking, ordered)
    held = total_bytes(layers.values())
    nodes: list[PrefetchedNode] = []
    fetching = 0
    for name in sorted(chosen, key=lambda name: (name not in ordered, lacking[name], name)):
        node = _node(view, name, missing[name], held - lacking[name], fetching)
        fetching += node.state == "Fetching"
        nodes.append(node)
    queued = frozenset(node.name for node in nodes if node.state == "Queued")
    orders = PrefetchOrders(view.uid, view.generation, frozenset(chosen) - queued, queued)
    return PrefetchPlan(tuple(sorted(nodes, key=lambda n: n.name)), layers, orders, _steps(view, orders), error)


def _unresolved(view: PrefetchView, layers: Mapping[Digest, Layer], error: KigiError) -> PrefetchPlan:
    """NodeCaches with layers of the prefetch stay as they are; ``layers`` are those of the states that are known."""
    if view.orders is not None and view.orders.uid == view.uid:
        keep = view.orders.hold | view.orders.keep
    else:
        keep = frozenset(name for name in view.nodes if layers and layers.keys() <= view.listed.get(name, frozenset()))
    orders = PrefetchOrders(view.uid, view.generation, keep=keep)
    return PrefetchPlan(tuple(view.old_status.nodes), {}, orders, _steps(view, orders), error)


def _steps(view: PrefetchView, orders: PrefetchOrders) -> tuple[OrderPrefetch, ...]:
    return (OrderPrefetch(view.namespace, view.name, orders),) if orders != view.orders else ()


def _is_ordered(view: PrefetchView, node: str, layers: Mapping[Digest, Layer]) -> bool:
    """Whether the node has the order Hold: by this operator, or by its NodeCache."""
    if order_of(view.orders, view.uid, view.generation, node) == "Hold":
        return True
    return layers.keys() <= view.listed.get(node, frozenset())


def _choose(view: PrefetchView, lacking: Mapping[str, int], ordered: set[str]) -> tuple[list[str], KigiError | None]:
    """Names of the nodes, and why they are fewer than the spec asks for."""
    spec = view.spec
    named = {name: state for name, state in view.nodes.items() if not spec.nodes or name in spec.nodes}
    rules = Placement(node_selector=spec.node_selector, tolerations=spec.tolerations)
    selected = {name: state for name, state in named.items() if is_selected(state, rules)}
    unknown = sorted(set(spec.nodes) - view.nodes.keys())
    absent = f"; there is no node {', '.join(unknown[:5])}" if unknown else ""
    if spec.count is None:
        left = {name: state for name, state in named.items() if name not in selected}
        if unknown or (spec.nodes and left) or not selected:
            return sorted(selected), NodesMissing(f"nodes are missing: {why_no_candidates(left, rules)}{absent}")
        return sorted(selected), None
    # A chosen node stays while its cache reports: a cordon or a short absence moves no bytes.
    kept = {name for name in ordered & selected.keys() if selected[name].cache_alive}
    free = kept | candidate_nodes(named, rules).keys()
    chosen = sorted(free, key=lambda name: (name not in kept, lacking[name], name))[: spec.count]
    if len(chosen) < spec.count:
        why = why_no_candidates({name: state for name, state in named.items() if name not in chosen}, rules)
        asked = f"spec.count: {spec.count} nodes are asked for, {len(chosen)} can be taken"
        return chosen, NodesMissing(f"{asked}: {why}{absent}")
    return chosen, None


def _node(
    view: PrefetchView, name: str, missing: Mapping[Digest, Layer], held_bytes: int, fetching: int
) -> PrefetchedNode:
    """Status of one node; ``fetching`` other nodes fetch before it."""
    limit = view.spec.parallelism
    state, reason, message = _state(view.nodes[name], missing)
    if state == "Fetching" and limit is not None and fetching >= limit:
        state, message = "Queued", f"{fetching} nodes fetch; spec.parallelism allows no more at a time"
    ordered = [] if state == "Queued" else [ref.name for ref in view.spec.systems]
    return PrefetchedNode(
        name=name, state=state, held_bytes=held_bytes, ordered=ordered, reason=reason, message=message
    )


def _state(node: NodeState, missing: Mapping[Digest, Layer]) -> tuple[PrefetchState, str | None, str | None]:
    """State, reason and message of a node that has its turn."""
    if not node.cache_alive:
        return "Away", "CacheSilent", "its cache daemon does not report"
    if not missing:
        return "Ready", None, None
    for digest in missing:
        if digest in node.refused:
            return "Refused", *node.refused[digest]
    return "Fetching", None, None
