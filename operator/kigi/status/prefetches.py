"""Status of a SystemPrefetch: Ready when each chosen node holds every layer, verified."""

from __future__ import annotations

from kigi.api.conditions import CACHED, RESOLVED, Finding, problem_findings, summary, with_conditions
from kigi.api.prefetch import SystemPrefetchStatus
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
        nodes=list(plan.nodes),
        wanted_nodes=len(plan.nodes),
        ready_nodes=ready,
        node_bytes=node_bytes,
        held_bytes=held,
        wanted_bytes=wanted,
        missing_bytes=wanted - held if new else old.missing_bytes,
    )
    names = ", ".join(ref.name for ref in view.spec.systems)
    cached = ready == len(plan.nodes)
    amount = f"{ready} of {len(plan.nodes)} nodes hold {names}: {format_bytes(held)} of {format_bytes(wanted)}"
    findings = [
        *_sum_up(plan, cached=cached, amount=amount),
        Finding(RESOLVED, True, "Resolved", f"{len(plan.layers)} layers, {format_bytes(node_bytes)}"),
        Finding(CACHED, cached, "LayersCached" if cached else "LayersWarming", amount),
    ]
    return with_conditions(status, old.conditions, findings, generation=view.generation, now=view.now)


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
