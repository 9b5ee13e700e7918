"""Phases of an instance as conditions: Resolved, Placed, Cached, DisksReady, MachinesCreated."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.api.conditions import CACHED, DISKS_READY, ISOLATED, MACHINES_CREATED, PLACED, RESOLVED, Finding
from kigi.domain.layers import total_bytes
from kigi.domain.node_protocol import NodeCacheFull
from kigi.domain.quantities import format_bytes
from kigi.errors import needs_action
from kigi.planning.candidates import NoNode
from kigi.planning.instance import InstancePlan
from kigi.planning.isolation import may_start
from kigi.planning.layer_selection import layers_omitted
from kigi.planning.view import InstanceView
from kigi.status.layer_bytes import LayerBytes


def phase_findings(view: InstanceView, plan: InstancePlan, cost: LayerBytes) -> list[Finding]:
    """One finding per phase, in the order in which an instance passes them."""
    later = [CACHED, DISKS_READY, MACHINES_CREATED]
    resolved = f"state {view.system_name}, {len(view.settings.machines)} machines differ"
    first = Finding(RESOLVED, True, "Resolved", resolved)
    if isinstance(plan.error, NoNode) and not plan.placed:
        unknown = [Finding(name, None, plan.error.reason, "waits for a node") for name in later]
        return [first, _placed(view, plan), *unknown]
    if plan.error is not None and not plan.placed:
        first = Finding(RESOLVED, False, plan.error.reason, str(plan.error))
        return [first, *(Finding(name, None, "Unresolved", "waits for the system") for name in (PLACED, *later))]
    findings = [
        first,
        _placed(view, plan),
        _cached(view, cost),
        _disks_ready(view, plan),
        _machines_created(plan),
    ]
    return [*findings, _isolated(view)] if view.spec.isolated else findings


NODE_MISSING = (
    "Node {node} was deleted; its disks wait for its return for some minutes (KIGI_NODE_GRACE_SECONDS) and are then "
    "replaced by new ones on other nodes, or immediately after: kubectl delete nodecache {node}"
)


def _placed(view: InstanceView, plan: InstancePlan) -> Finding:
    lost = sorted({p.node for p in plan.placed if not (p.node in view.nodes and view.nodes[p.node].ready)})
    if missing := [node for node in lost if node in view.nodes and not view.nodes[node].exists]:
        return Finding(PLACED, False, "NodeMissing", NODE_MISSING.format(node=missing[0]))
    if lost:
        return Finding(PLACED, False, "NodeNotReady", f"waits for {', '.join(lost)}, or for that Node to be deleted")
    if isinstance(plan.error, NoNode):
        return Finding(PLACED, False, plan.error.reason, str(plan.error))
    count = sum(not placed.is_new for placed in plan.placed)
    done = count == len(plan.placed)
    message = f"{count} of {len(plan.placed)} disks have a node"
    return Finding(PLACED, done, "Placed" if done else "Placing", message)


def _cached(view: InstanceView, cost: LayerBytes) -> Finding:
    if cost.missing == 0:
        return Finding(CACHED, True, "LayersCached", f"{format_bytes(cost.wanted)} held by {len(cost.wanted_on)} nodes")
    troubles = list(_cache_troubles(view, cost))
    if troubles:
        return min(troubles, key=lambda finding: not needs_action(finding.reason))
    node = max(sorted(cost.missing_on), key=lambda name: total_bytes(cost.missing_on[name].values()))
    missing, wanted = cost.missing_on[node], cost.wanted_on[node]
    missing_bytes, wanted_bytes = total_bytes(missing.values()), total_bytes(wanted.values())
    message = (
        f"{len(wanted) - len(missing)} of {len(wanted)} layers "
        f"({format_bytes(wanted_bytes - missing_bytes)} of {format_bytes(wanted_bytes)}) on {node}"
    )
    return Finding(CACHED, False, "LayersWarming", message)


def _cache_troubles(view: InstanceView, cost: LayerBytes) -> Iterator[Finding]:
    """Reasons why missing layers do not arrive, by node and digest; reports of a silent daemon are out of date."""
    for node, missing in sorted(cost.missing_on.items()):
        state = view.nodes.get(node)
        if not missing or state is None:
            continue
        if not state.cache_alive:
            yield Finding(CACHED, False, "CacheSilent", f"the cache daemon of {node} has not reported lately")
            continue
        if state.skew:
            yield Finding(CACHED, False, "VersionSkew", state.skew)
        if state.listed is not None and (out := missing.keys() - state.listed):
            yield Finding(CACHED, False, NodeCacheFull.reason, str(layers_omitted(node, len(out), len(missing))))
        for digest in sorted(missing.keys() & state.refused.keys()):
            reason, message = state.refused[digest]
            yield Finding(CACHED, False, reason, f"{node}: layer {digest}: {message}")


def _isolated(view: InstanceView) -> Finding:
    done = may_start(view)
    message = "the NetworkPolicy exists" if done else "waits for the NetworkPolicy"
    return Finding(ISOLATED, done, "PolicyApplied" if done else "MachinesPending", message)


def _disks_ready(view: InstanceView, plan: InstancePlan) -> Finding:
    bound = {claim.meta.name for claim in view.claims if claim.bound and not claim.meta.deleting}
    count = sum(all(disk.claim in bound for disk in placed.disks) for placed in plan.placed)
    done = count == len(plan.placed)
    message = f"the claims of {count} of {len(plan.placed)} machines are bound"
    return Finding(DISKS_READY, done, "ClaimsBound" if done else "ClaimsPending", message)


def _machines_created(plan: InstancePlan) -> Finding:
    count = 0
    for placed in plan.placed:
        vm = placed.observed.vm if placed.observed is not None else None
        count += vm is not None and not vm.meta.deleting and vm.claim == placed.claim
    done = count == len(plan.placed)
    message = f"{count} of {len(plan.placed)} VirtualMachines name their disk"
    return Finding(MACHINES_CREATED, done, "MachinesCreated" if done else "MachinesPending", message)
