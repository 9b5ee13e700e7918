"""Status of VMImageNodes and SystemNodes."""

from __future__ import annotations

from typing import Any

from kigi.api.conditions import Finding, problem_findings, summary, with_conditions
from kigi.api.image import LayerStatus, VMImageNodeStatus
from kigi.api.system import MAX_MACHINES_OF_STATE, ResolvedMachineStatus, SystemNodeStatus
from kigi.domain.layers import IMAGE_MEDIA_TYPE, Chain, missing_layers, total_bytes
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import ResolvedSystem
from kigi.domain.usage import format_users
from kigi.errors import KigiError
from kigi.planning.hashes import state_content_hash
from kigi.planning.view import ImageView, SystemView

Summary = tuple[Finding, Finding, Finding]
"""Ready, Reconciling and Stalled."""


def image_status(view: ImageView) -> VMImageNodeStatus:
    """Status of one VMImageNode. It is Ready when its chain reaches a root."""
    if isinstance(view.chain, KigiError):
        findings = problem_findings(view.chain)
        status = VMImageNodeStatus(child_count=view.children, **_stored(view))
    else:
        findings = _complete_chain(view.chain)
        status = VMImageNodeStatus(
            depth=len(view.chain),
            chain=[layer.digest for layer in view.chain[-view.own_layers :]],
            chain_size_bytes=total_bytes(view.chain),
            child_count=view.children,
            cached_node_count=view.cached_nodes,
            **_stored(view),
        )
    old = view.old_status.conditions if view.old_status else ()
    findings = _deletion_findings(view) or findings
    return with_conditions(status, old, findings, generation=view.generation, now=view.now)


def _stored(view: ImageView) -> dict[str, Any]:
    """Fields about the stored layer. A layer that a node has verified once stays verified: its digest never changes."""
    image = view.image
    if image is None:
        return {}
    old = view.old_status.layer if view.old_status else None
    verified = view.held or (old is not None and old.verified and old.digest == image.digest)
    layer = LayerStatus(
        digest=image.digest,
        size_bytes=image.size_bytes,
        virtual_size_bytes=image.virtual_size_bytes,
        media_type=IMAGE_MEDIA_TYPE,
        verified=verified,
    )
    chain = view.chain
    repository = image.repository if isinstance(chain, KigiError) else chain[-1].repository
    return {"layer": layer, "repository_name": repository}


def system_status(view: SystemView) -> SystemNodeStatus:
    """Status of one SystemNode. It is Ready when the chain of every machine reaches a root."""
    if isinstance(view.system, KigiError):
        findings, status = problem_findings(view.system), SystemNodeStatus()
    else:
        findings, status = _resolved(view.system, view.parent)
    old = view.old_status.conditions if view.old_status else ()
    findings = _deletion_findings(view) or findings
    return with_conditions(status, old, findings, generation=view.generation, now=view.now)


def _complete_chain(chain: Chain) -> Summary:
    message = f"{len(chain)} layers, {format_bytes(total_bytes(chain))}"
    return summary(ready=True, stalled=False, reason="ChainComplete", message=message)


def _resolved(system: ResolvedSystem, parent: ResolvedSystem | None) -> tuple[Summary, SystemNodeStatus]:
    layers = system.layers()
    unique = total_bytes(layers.values())
    added = total_bytes(missing_layers(layers, (parent.layers() if parent else {}).keys()).values())
    status = SystemNodeStatus(
        content_hash=state_content_hash(system),
        depth=system.depth,
        machine_count=len(system.machines),
        machines=[
            ResolvedMachineStatus(
                name=machine.name, image_name=system.shown_image(machine.image), chain_length=len(machine.chain)
            )
            for machine in system.machines[:MAX_MACHINES_OF_STATE]
        ],
        unique_bytes=unique,
        added_bytes=added,
    )
    message = f"{len(system.machines)} machines, {format_bytes(unique)}, {format_bytes(added)} more than the parent"
    return summary(ready=True, stalled=False, reason="Resolved", message=message), status


def _deletion_findings(view: ImageView | SystemView) -> Summary | None:
    """Findings of a deleted node that still has users; None for any other node."""
    if not (view.deleting and view.users):
        return None
    message = f"deleted, and used by {format_users(view.users)}; it goes when they are gone"
    return summary(ready=False, stalled=False, reason="InUse", message=message)
