"""Status of a SystemPrefetch: Ready when each chosen node holds every layer, verified."""

from __future__ import annotations

from kigi.api.conditions import (
    CACHED,
    DEADLINE_MISSED,
    RESOLVED,
    Finding,
    bounded,
    problem_findings,
    summary,
    with_conditions,
)
from kigi.api.prefetch import MAX_NODE_MESSAGE, MAX_UNREADY_NODES, SystemPrefetchStatus, UnreadyNode
from kigi.domain.layers import total_bytes
from kigi.domain.quantities import format_bytes
from kigi.errors import KigiError, NeedsAction
from kigi.planning.prefetches import PrefetchPlan, PrefetchView

SHOWN = 3
"""Refused or silent nodes that a message names."""


def prefetch_status(view: PrefetchView, plan: PrefetchPlan) -> SystemPrefetchStatus:
    """Nodes, bytes and conditions of the plan."""
    old = view.old_status
    if plan.error is not None and not plan.layers:  # a state is not resolved: the nodes stay as they are
        findings = [*problem_findings(plan.error), Finding(RESOLVED, False, plan.error.reason, str(plan.error))]
        return with_conditions(old, old.conditions, findings, generation=view.generation, now=view.now)
    node_bytes = total_bytes(plan.layers.values())
    held, wanted = sum(node.held_bytes for node in plan.nodes), node_bytes * len(plan.nodes)
    ready = sum(node.state == "Ready" for node in plan.nodes)
    new = old.observed_generation != view.generation
    status = SystemPrefetchStatus(
        desired_nodes=len(plan.nodes),
        ready_nodes=ready,
        node_bytes=node_bytes,
        held_bytes=held,
        wanted_bytes=wanted,
        missing_bytes=wanted - held if new else old.missing_bytes,
        deadline_time=view.spec.deadline(view.created),
        unready_nodes=_unready(plan),
    )
    names = ", ".join(ref.tree_name for ref in view.spec.target_refs)
    cached = ready == len(plan.nodes)
    amount = f"{ready} of {len(plan.nodes)} nodes hold {names}: {format_bytes(held)} of {format_bytes(wanted)}"
    findings = [
        *_sum_up(plan, cached=cached, amount=amount),
        Finding(RESOLVED, True, "Resolved", f"{len(plan.layers)} layers, {format_bytes(node_bytes)}"),
        Finding(CACHED, cached, "LayersCached" if cached else "LayersWarming", amount),
        *_deadline(view, is_ready=cached and plan.error is None, amount=amount),
    ]
    return with_conditions(status, old.conditions, findings, generation=view.generation, now=view.now)


def _unready(plan: PrefetchPlan) -> list[UnreadyNode]:
    """The first nodes that are not ready: those with a cause, then those that fetch, then those that wait."""
    rank = {"Refused": 0, "Away": 0, "Fetching": 1}
    unready = sorted((rank.get(node.state, 2), node.name, node) for node in plan.nodes if node.state != "Ready")
    return [
        UnreadyNode(
            name=node.name,
            state=node.state,
            reason=node.reason,
            message=bounded(node.message, MAX_NODE_MESSAGE) if node.message is not None else None,
        )
        for _, _, node in unready[:MAX_UNREADY_NODES]
    ]


def _deadline(view: PrefetchView, *, is_ready: bool, amount: str) -> list[Finding]:
    """DeadlineMissed, if there is a deadline. What was found at a deadline stays so until there is another one."""
    deadline = view.spec.deadline(view.created)
    if deadline is None:
        return []
    by = f"{deadline:%Y-%m-%dT%H:%M:%SZ}"
    before = next((c for c in view.old_status.conditions if c.type == DEADLINE_MISSED), None)
    if view.now > deadline and before is not None and view.old_status.deadline_time == deadline:
        if before.status == "True":
            return [Finding(DEADLINE_MISSED, True, before.reason, before.message)]
        is_ready = is_ready or before.reason == "ReadyInTime"
    if is_ready:
        return [Finding(DEADLINE_MISSED, False, "ReadyInTime", f"all nodes were ready by {by}")]
    if view.now > deadline:
        return [Finding(DEADLINE_MISSED, True, "DeadlineMissed", f"not all nodes were ready by {by}: {amount}")]
    return [Finding(DEADLINE_MISSED, False, "DeadlineAhead", f"all nodes should be ready by {by}")]


def _sum_up(plan: PrefetchPlan, *, cached: bool, amount: str) -> tuple[Finding, Finding, Finding]:
    if plan.error is not None:
        return _problem(plan.error, amount)
    if cached:
        return summary(ready=True, stalled=False, reason="LayersCached", message=amount)
    troubled = [node for node in plan.nodes if node.state in ("Refused", "Away")]
    if not troubled:
        return summary(ready=False, stalled=False, reason="LayersWarming", message=amount)
    causes = "; ".join(f"node {node.name}: {node.message}" for node in troubled[:SHOWN])
    more = f"; and {len(troubled) - SHOWN} more nodes" if len(troubled) > SHOWN else ""
    reason = min(node.reason or "CacheSilent" for node in troubled)
    return summary(ready=False, stalled=False, reason=reason, message=f"{amount}; {causes}{more}")


def _problem(error: KigiError, amount: str) -> tuple[Finding, Finding, Finding]:
    stalled = isinstance(error, NeedsAction)
    return summary(ready=False, stalled=stalled, reason=error.reason, message=f"{error}; {amount}")
