"""Status of a SystemQuota: what its namespaces use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kigi.api.conditions import summary, with_conditions
from kigi.api.quota import MAX_NAMESPACES, QuotaNamespace, QuotaUsed, SystemQuotaSpec, SystemQuotaStatus
from kigi.planning.quotas import exceeded, total

SHOWN = 5
"""Namespaces above a limit that the message names: only administrators read it."""


@dataclass(frozen=True, slots=True)
class QuotaView:
    """A quota, and what each namespace that it selects uses."""

    spec: SystemQuotaSpec
    generation: int
    old_status: SystemQuotaStatus
    now: datetime
    used: Mapping[str, QuotaUsed]
    """By name of the namespace, those that use nothing included."""


def quota_status(view: QuotaView) -> SystemQuotaStatus:
    """Amounts of each namespace; Ready, because the limits are in force."""
    hard = view.spec.hard.limits()
    nothing = QuotaUsed()
    using = [QuotaNamespace(name=name, used=used) for name, used in view.used.items() if used != nothing]
    shown = sorted(using, key=lambda one: (-_share(one.used, hard), one.name))[:MAX_NAMESPACES]
    status = SystemQuotaStatus(
        namespace_count=len(view.used), namespaces=sorted(shown, key=lambda namespace: namespace.name)
    )
    findings = summary(ready=True, stalled=False, reason="Counted", message=_message(view, hard, using))
    return with_conditions(status, view.old_status.conditions, findings, generation=view.generation, now=view.now)


def _message(view: QuotaView, hard: Mapping[str, int], using: list[QuotaNamespace]) -> str:
    counted = f"{len(view.used)} namespaces, {len(using)} of them use something"
    if view.spec.scope == "Shared":
        above = exceeded(total(view.used.values()), hard)
        return f"{counted}; together above the limit of {', '.join(above)}" if above else counted
    over = {one.name: above for one in using if (above := exceeded(one.used, hard))}
    if not over:
        return counted
    names = "; ".join(f"{name}: {', '.join(above)}" for name, above in sorted(over.items())[:SHOWN])
    more = f"; and {len(over) - SHOWN} more" if len(over) > SHOWN else ""
    return f"{counted}; above a limit: {names}{more}"


def _share(used: QuotaUsed, hard: Mapping[str, int]) -> float:
    """The largest part of a limit that is used; a limit of 0 counts as reached by anything."""
    return max((getattr(used, name) / limit if limit else float(getattr(used, name))) for name, limit in hard.items())
