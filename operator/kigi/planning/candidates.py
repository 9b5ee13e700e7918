"""Candidates: nodes that may take disks, by readiness, driver, labels and taints; and why others may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from kigi.api.deployment import Placement, Toleration
from kigi.errors import Waiting
from kigi.planning.view import NodeState


class NoNode(Waiting):
    """No node is a candidate; the message counts the causes."""

    reason = "NoNode"


def candidate_nodes(nodes: Mapping[str, NodeState], rules: Placement) -> dict[str, NodeState]:
    """Nodes that can take a disk now, by name: ready, schedulable, with a live cache daemon, selected and tolerated."""
    return {name: state for name, state in sorted(nodes.items()) if _refusal(state, rules) is None}


def is_selected(state: NodeState, rules: Placement) -> bool:
    """Whether selector and tolerations accept the node and it has the driver, even if it is down or cordoned now."""
    return state.has_driver and _mismatch(state, rules) is None


def why_no_candidates(nodes: Mapping[str, NodeState], rules: Placement) -> str:
    """The causes, each with its number of nodes, such as ``2 nodes cordoned; 1 nodes not ready``."""
    causes = Counter(_refusal(state, rules) for state in nodes.values())
    return "; ".join(f"{count} nodes {cause}" for cause, count in sorted(causes.items(), key=str)) or "there is no node"


def _refusal(state: NodeState, rules: Placement) -> str | None:
    if not state.ready:
        return "not ready"
    if not state.schedulable:
        return "cordoned"
    if not state.has_driver:
        return "without the disk.kigi.dev driver"
    if not state.cache_alive:
        return "whose cache daemon is silent"
    return _mismatch(state, rules)


def _mismatch(state: NodeState, rules: Placement) -> str | None:
    if any(state.labels.get(key) != value for key, value in rules.node_selector.items()):
        return "not matched by nodeSelector"
    if not all(_tolerated(taint, rules.tolerations) for taint in state.taints):
        return "with a taint that tolerations do not tolerate"
    return None


def _tolerated(taint: tuple[str, str, str], tolerations: Sequence[Toleration]) -> bool:
    key, value, effect = taint
    if effect == "PreferNoSchedule":
        return True
    return any(
        (t.key is None or t.key == key)
        and (t.effect is None or t.effect == effect)
        and (t.operator == "Exists" or (t.value or "") == value)
        for t in tolerations
    )
