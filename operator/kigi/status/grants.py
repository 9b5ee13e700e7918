"""Status of a TreeGrant: counts, so that it names no namespace."""

from __future__ import annotations

from kigi.api.conditions import summary, with_conditions
from kigi.api.grant import TreeGrantStatus
from kigi.planning.view import GrantView

SHOWN = 8
"""Missing targets that a message names; it counts the others."""


def grant_status(view: GrantView) -> TreeGrantStatus:
    """Ready when everything that it names exists."""
    count = view.namespace_count
    status = TreeGrantStatus(namespace_count=count)
    old = view.old_status.conditions if view.old_status else ()
    if view.missing:
        named = ", ".join(f"{target.kind} {target.name}" for target in view.missing[:SHOWN])
        more = f", and {len(view.missing) - SHOWN} more" if len(view.missing) > SHOWN else ""
        message = f"spec.to: {named}{more}: not in this namespace; create it, or correct the name"
        findings = summary(ready=False, stalled=False, reason="TargetMissing", message=message)
    else:
        number = len(view.grant.targets)
        message = f"{number} tree nodes for {count} other namespace{'' if count == 1 else 's'}"
        findings = summary(ready=True, stalled=False, reason="Granted", message=message)
    return with_conditions(status, old, findings, generation=view.generation, now=view.now)
