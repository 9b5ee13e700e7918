"""Candidates: nodes that may take disks, by readiness, driver, labels and taints; and why others may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from kigi.api.placement import Placement, Toleration
from kigi.errors import Waiting
from kigi.planning.view import NodeState

ARCHITECTURE_LABEL = "kubernetes.io/arch"
"""Label that the kubelet sets on its Node."""


class NoNode(Waiting):
    """No node is a candidate; the message counts the causes."""

    reason = "NoNode"


def candidate_nodes(nodes: Mapping[str, NodeState], rules: Placement) -> list[NodeState]:
    """Nodes that can take a disk now: ready, schedulable, with a live cache daemon, selected and tolerated."""
    selective = bool(rules.node_selector)
    return [
        state
        for state in nodes.values()
        if state.refusal is None and (not (selective or state.taints) or _mismatch(state, rules) is None)
    ]


def is_candidate(state: NodeState | None, rules: Placement) -> TypeGuard[NodeState]:
    """Whether the node exists and can take a disk now."""
    return state is not None and _refusal(state, rules) is None


def is_selected(state: NodeState, rules: Placement) -> bool:
    """Whether selector and tolerations accept the node and it has the driver, even if it is down or cordoned now."""
    return state.has_driver and _mismatch(state, rules) is None


def why_no_candidates(nodes: Mapping[str, NodeState], rules: Placement) -> str:
    """The causes, each with its number of nodes, such as ``2 nodes cordoned; 1 nodes not ready``."""
    causes = Counter(_refusal(state, rules) for state in nodes.values())
    return "; ".join(f"{count} nodes {cause}" for cause, count in sorted(causes.items(), key=str)) or "there is no node"


def runs(architecture: str | None, state: NodeState) -> bool:
    """Whether the node's processors can run a guest of that architecture; None: any."""
    return architecture is None or state.labels.get(ARCHITECTURE_LABEL) == architecture


def _refusal(state: NodeState, rules: Placement) -> str | None:
    return state.refusal or _mismatch(state, rules)


def _mismatch(state: NodeState, rules: Placement) -> str | None:
    if rules.node_selector and any(state.labels.get(key) != value for key, value in rules.node_selector.items()):
        return "not matched by nodeSelector"
    if state.taints and not all(_tolerated(taint, rules.tolerations) for taint in state.taints):
        return "with a taint that tolerations do not tolerate"
    return None


def _tolerated(taint: tuple[str, str, str], tolerations: Sequence[Toleration]) -> bool:
    key, value, effect = taint
    if effect == "PreferNoSchedule":
        return True
    return any(
        (t.key is None or t.key == key)
        and (t.effect is None or t.effect == effect)
        and (t.operator == "Exists" or (t.operator in (None, "Equal") and (t.value or "") == value))
        for t in tolerations
    )
