"""Which nodes keep a prefetch's states warm, and whose turn it is to fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kigi.api.deployment import Placement
from kigi.api.prefetch import PrefetchedNode, PrefetchState, SystemPrefetchSpec, SystemPrefetchStatus
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes
from kigi.domain.systems import ResolvedSystem
from kigi.errors import KigiError, NodesMissing
from kigi.planning.candidates import candidate_nodes, is_selected, why_no_candidates
from kigi.planning.view import NodeState


@dataclass(frozen=True, slots=True)
class PrefetchView:
    """Everything that the decision on one SystemPrefetch needs."""

    generation: int
    spec: SystemPrefetchSpec
    systems: Mapping[str, ResolvedSystem | KigiError]
    """Every state that the spec names, resolved, or why it cannot be."""
    nodes: Mapping[str, NodeState]
    status: SystemPrefetchStatus
    """As it is: which nodes were chosen, and what each was told."""
    now: datetime


@dataclass(frozen=True, slots=True)
class PrefetchPlan:
    """``nodes`` by name; ``error``: why it is not what the spec asks for."""

    nodes: tuple[PrefetchedNode, ...]
    layers: Mapping[Digest, Layer]
    """What each of the nodes shall hold."""
    error: KigiError | None = None


def plan_prefetch(view: PrefetchView) -> PrefetchPlan:
    """What each node is told to hold.

    A state that cannot be resolved leaves all as it is. O(nodes x layers of the states).
    """
    systems: list[ResolvedSystem] = []
    for ref in view.spec.systems:
        system = view.systems[ref.name]
        if isinstance(system, KigiError):
            return PrefetchPlan(tuple(view.status.nodes), {}, system)
        systems.append(system)
    layers = {digest: layer for system in systems for digest, layer in system.layers().items()}
    missing = {name: missing_layers(layers, state.held) for name, state in view.nodes.items()}
    lacking = {name: total_bytes(found.values()) for name, found in missing.items()}
    names, error = _choose(view, lacking)
    before = {node.name: node for node in view.status.nodes}
    wanted = [system.name for system in systems]
    nodes: list[PrefetchedNode] = []
    fetching = 0
    for name in sorted(names, key=lambda name: (_rank(before.get(name), wanted), lacking[name], name)):
        state, reason, message = _look(view.nodes[name], missing[name])
        turn = view.spec.parallelism is None or fetching < view.spec.parallelism
        if state == "Fetching" and not turn:
            state, message = "Queued", f"{fetching} nodes fetch; spec.parallelism allows no more at a time"
        fetching += state == "Fetching"
        known = before.get(name)
        nodes.append(
            PrefetchedNode(
                name=name,
                state=state,
                held_bytes=total_bytes(layers.values()) - lacking[name],
                # Until its turn it keeps what it was told to keep.
                ordered=(known.ordered if known is not None else []) if state == "Queued" else wanted,
                reason=reason,
                message=message,
            )
        )
    return PrefetchPlan(tuple(sorted(nodes, key=lambda node: node.name)), layers, error)


def _rank(known: PrefetchedNode | None, wanted: Sequence[str]) -> int:
    """Those that were told already are not called back; those that hold everything take nobody's turn anyway."""
    return 0 if known is not None and known.ordered == wanted else 1


def _choose(view: PrefetchView, lacking: Mapping[str, int]) -> tuple[list[str], KigiError | None]:
    """Names of the nodes that are meant, and why there are fewer than asked for."""
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
    # A node that was taken stays while its cache answers: a cordon or a moment's absence moves no bytes.
    taken = {node.name for node in view.status.nodes}
    kept = {name for name in taken & selected.keys() if selected[name].cache_alive}
    free = kept | candidate_nodes(named, rules).keys()
    chosen = sorted(free, key=lambda name: (name not in kept, lacking[name], name))[: spec.count]
    if len(chosen) < spec.count:
        why = why_no_candidates({name: state for name, state in named.items() if name not in chosen}, rules)
        asked = f"spec.count: {spec.count} nodes are asked for, {len(chosen)} can be taken"
        return chosen, NodesMissing(f"{asked}: {why}{absent}")
    return chosen, None


def _look(node: NodeState, missing: Mapping[Digest, Layer]) -> tuple[PrefetchState, str | None, str | None]:
    """What a node that is told to hold the layers makes of it: state, reason and message."""
    if not node.cache_alive:
        return "Away", "CacheSilent", "its cache daemon is silent"
    if not missing:
        return "Ready", None, None
    for digest in missing:
        if digest in node.refused:
            return "Refused", *node.refused[digest]
    return "Fetching", None, None
