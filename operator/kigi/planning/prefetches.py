"""Which nodes hold the layers of a prefetch, and in which order they fetch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kigi.api.placement import Placement
from kigi.api.prefetch import SystemPrefetchSpec, SystemPrefetchStatus
from kigi.domain.layers import Chain, Digest, Layer, missing_layers, total_bytes, unique_layers
from kigi.domain.node_protocol import NodeCacheFull
from kigi.errors import KigiError, NodesMissing, QuotaExceeded
from kigi.planning.candidates import candidate_nodes, is_selected, why_no_candidates
from kigi.planning.layer_selection import layers_omitted
from kigi.planning.prefetch_orders import PrefetchOrders, order_of
from kigi.planning.quotas import Account, Allowance
from kigi.planning.steps import OrderPrefetch
from kigi.planning.view import NodeState

PrefetchState = Literal["Queued", "Fetching", "Ready", "Refused", "Away"]


@dataclass(frozen=True, slots=True)
class PrefetchedNode:
    """One chosen node. ``reason`` and ``message``: why it is Refused, Away or Queued."""

    name: str
    state: PrefetchState
    held_bytes: int
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class PrefetchView:
    """Everything that the decision on one SystemPrefetch needs."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: SystemPrefetchSpec
    targets: tuple[tuple[Chain, ...] | KigiError, ...]
    """Chains of each of the spec's targets, or why they are not known."""
    nodes: Mapping[str, NodeState]
    listed: Mapping[str, frozenset[Digest]]
    """Layers that the NodeCache of each node lists."""
    orders: PrefetchOrders | None
    """The last orders of this operator, which NodeCaches may not show yet."""
    allowance: Allowance | None
    """What the SystemQuotas of the namespace leave, without what this prefetch uses; None: they are not known."""
    old_status: SystemPrefetchStatus
    """For conditions and counters; no decision is read from it."""
    now: datetime
    created: datetime | None = None
    """metadata.creationTimestamp."""


@dataclass(frozen=True, slots=True)
class PrefetchPlan:
    """``nodes`` by name; ``error``: why they are fewer than the spec asks for, or why ``layers`` is empty."""

    nodes: tuple[PrefetchedNode, ...]
    layers: Mapping[Digest, Layer]
    """Layers of all targets: what each of the nodes should hold."""
    orders: PrefetchOrders
    steps: tuple[OrderPrefetch, ...] = ()
    error: KigiError | None = None


def plan_prefetch(view: PrefetchView) -> PrefetchPlan:
    """The order to each node; pure. O(nodes x layers of the targets).

    At most ``spec.parallelism`` nodes get the order Hold while they lack layers. A node that has this order already, by
    this operator or by its NodeCache, comes before all others and is not called back for them. A node that is refused
    layers or does not report does not count. If a target cannot be resolved, NodeCaches stay as they are.
    """
    layers = unique_layers(chain for chains in view.targets if not isinstance(chains, KigiError) for chain in chains)
    for target in view.targets:
        if isinstance(target, KigiError):
            return _unresolved(view, layers, target)
    missing = {name: missing_layers(layers, state.held) for name, state in view.nodes.items()}
    lacking = {name: total_bytes(found.values()) for name, found in missing.items()}
    ordered = {name for name in view.nodes if _is_ordered(view, name, layers)}
    chosen, error = _choose(view, lacking, ordered)
    held = total_bytes(layers.values())
    chosen.sort(key=lambda name: (name not in ordered, lacking[name], name))
    chosen, pinned, refused = _permitted(view, chosen, ordered, held)
    nodes: list[PrefetchedNode] = []
    fetching = 0
    for name in chosen:
        node = _node(view, name, missing[name], held - lacking[name], fetching)
        fetching += node.state == "Fetching"
        nodes.append(node)
    queued = frozenset(node.name for node in nodes if node.state == "Queued")
    orders = PrefetchOrders(view.uid, view.generation, frozenset(chosen) - queued, queued, pinned - queued)
    shown = tuple(sorted(nodes, key=lambda n: n.name))
    return PrefetchPlan(shown, layers, orders, _steps(view, orders), refused or error)


def _permitted(
    view: PrefetchView, chosen: list[str], ordered: set[str], size_bytes: int
) -> tuple[list[str], frozenset[str], QuotaExceeded | None]:
    """The nodes that SystemQuotas allow, those of them that may pin the layers, and the error of the first refused one.

    A node that has the order keeps it, but not pinned.
    """
    if view.allowance is None:
        return chosen, frozenset(chosen if view.spec.pinned else ()), None
    account, allowed, pinned = Account(view.allowance), list[str](), set[str]()
    error: QuotaExceeded | None = None
    for name in chosen:
        try:
            account.take_prefetch(size_bytes, pinned=view.spec.pinned)
        except QuotaExceeded as exc:
            error = error or exc
            if name in ordered:
                allowed.append(name)
        else:
            allowed.append(name)
            if view.spec.pinned:
                pinned.add(name)
    return allowed, frozenset(pinned), error


def _unresolved(view: PrefetchView, layers: Mapping[Digest, Layer], error: KigiError) -> PrefetchPlan:
    """NodeCaches with layers of the prefetch stay as they are; ``layers`` are those of the targets that are known."""
    if view.orders is not None and view.orders.uid == view.uid:
        keep = view.orders.hold | view.orders.keep
    else:
        keep = frozenset(name for name in view.nodes if layers and layers.keys() <= view.listed.get(name, frozenset()))
    orders = PrefetchOrders(view.uid, view.generation, keep=keep)
    return PrefetchPlan((), {}, orders, _steps(view, orders), error)


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
    named = {name: state for name, state in view.nodes.items() if spec.selects(name, state.labels)}
    rules = Placement(tolerations=spec.tolerations)
    selected = {name: state for name, state in named.items() if is_selected(state, rules)}
    names = spec.selected_names()
    unknown = sorted(set(names) - view.nodes.keys())
    absent = f"; there is no node {', '.join(unknown[:5])}" if unknown else ""
    if spec.node_count is None:
        left = {name: state for name, state in named.items() if name not in selected}
        if unknown or (names and left) or not selected:
            return sorted(selected), NodesMissing(f"nodes are missing: {_why(view, left, rules)}{absent}")
        return sorted(selected), None
    # A chosen node stays while its cache reports: a cordon or a short absence moves no bytes.
    kept = {name for name in ordered & selected.keys() if selected[name].cache_alive}
    free = kept | {state.name for state in candidate_nodes(named, rules)}
    chosen = sorted(free, key=lambda name: (name not in kept, lacking[name], name))[: spec.node_count]
    if len(chosen) < spec.node_count:
        why = _why(view, {name: state for name, state in named.items() if name not in chosen}, rules)
        asked = f"spec.nodeCount: {spec.node_count} nodes are asked for, {len(chosen)} can be taken"
        return chosen, NodesMissing(f"{asked}: {why}{absent}")
    return chosen, None


def _why(view: PrefetchView, left: Mapping[str, NodeState], rules: Placement) -> str:
    """Why nodes are not taken: causes of those that spec.nodes selects, and the number of those that it does not."""
    others = len(view.nodes) - sum(view.spec.selects(n, s.labels) for n, s in view.nodes.items())
    by_label = f"{others} nodes not matched by spec.nodes" if others and not view.spec.selected_names() else ""
    causes = why_no_candidates(left, rules) if left or not by_label else ""
    return "; ".join(text for text in (causes, by_label) if text)


def _node(
    view: PrefetchView, name: str, missing: Mapping[Digest, Layer], held_bytes: int, fetching: int
) -> PrefetchedNode:
    """One node; ``fetching`` other nodes fetch before it."""
    limit = view.spec.parallelism
    state, reason, message = _state(view.nodes[name], missing)
    if state == "Fetching" and limit is not None and fetching >= limit:
        state, message = "Queued", f"{fetching} nodes fetch; spec.parallelism allows no more at a time"
    return PrefetchedNode(name, state, held_bytes, reason, message)


def _state(node: NodeState, missing: Mapping[Digest, Layer]) -> tuple[PrefetchState, str | None, str | None]:
    """State, reason and message of a node that has its turn."""
    if not node.cache_alive:
        return "Away", "CacheSilent", "its cache daemon does not report"
    if not missing:
        return "Ready", None, None
    if node.skew:
        return "Refused", "VersionSkew", node.skew
    if node.listed is not None and (out := missing.keys() - node.listed):
        return "Refused", NodeCacheFull.reason, str(layers_omitted(node.name, len(out), len(missing)))
    for digest in missing:
        if digest in node.refused:
            return "Refused", *node.refused[digest]
    return "Fetching", None, None
