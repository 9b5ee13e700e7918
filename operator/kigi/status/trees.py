"""Status of the two trees' nodes."""

from __future__ import annotations

from kigi.api.conditions import Finding, merge_conditions, problem_findings, summary
from kigi.api.image import VMImageNodeStatus
from kigi.api.system import ResolvedMachineStatus, SystemNodeStatus
from kigi.domain.layers import missing_layers, total_bytes
from kigi.domain.quantities import format_bytes
from kigi.domain.usage import format_users
from kigi.errors import KigiError
from kigi.planning.view import ImageView, SystemView


def image_status(view: ImageView) -> VMImageNodeStatus:
    """Status of one VMImageNode: Ready when its chain reaches a root."""
    old = view.old_status or VMImageNodeStatus()
    if isinstance(view.chain, KigiError):
        findings = _waiting_to_go(view) or problem_findings(view.chain)
        return VMImageNodeStatus(
            observed_generation=view.generation,
            conditions=merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
            children=view.children,
        )
    size_bytes = total_bytes(view.chain)
    message = f"{len(view.chain)} layers, {format_bytes(size_bytes)}"
    findings = _waiting_to_go(view) or summary(ready=True, stalled=False, reason="ChainComplete", message=message)
    return VMImageNodeStatus(
        observed_generation=view.generation,
        conditions=merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
        depth=len(view.chain),
        chain=[layer.digest for layer in view.chain],
        chain_size_bytes=size_bytes,
        children=view.children,
        cached_on=view.cached_on,
    )


def system_status(view: SystemView) -> SystemNodeStatus:
    """Status of one SystemNode: Ready when every machine's chain reaches a root."""
    old = view.old_status or SystemNodeStatus()
    if isinstance(view.system, KigiError):
        findings = _waiting_to_go(view) or problem_findings(view.system)
        return SystemNodeStatus(
            observed_generation=view.generation,
            conditions=merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
        )
    layers = view.system.layers()
    added = total_bytes(missing_layers(layers, (view.parent.layers() if view.parent else {}).keys()).values())
    unique = total_bytes(layers.values())
    message = (
        f"{len(view.system.machines)} machines, {format_bytes(unique)}, {format_bytes(added)} more than the parent"
    )
    findings = _waiting_to_go(view) or summary(ready=True, stalled=False, reason="Resolved", message=message)
    return SystemNodeStatus(
        observed_generation=view.generation,
        conditions=merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
        depth=view.system.depth,
        machines=[
            ResolvedMachineStatus(name=machine.name, image=machine.image, chain_length=len(machine.chain))
            for machine in view.system.machines
        ],
        unique_bytes=unique,
        added_bytes=added,
    )


def _waiting_to_go(view: ImageView | SystemView) -> tuple[Finding, Finding, Finding] | None:
    """Of a node that was deleted and is used; None for any other."""
    if not (view.deleting and view.users):
        return None
    message = f"deleted, and used by {format_users(view.users)}; it goes when they are gone"
    return summary(ready=False, stalled=False, reason="InUse", message=message)
