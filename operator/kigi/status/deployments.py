"""Status of a SystemDeployment: counts, conditions, bytes and times over its instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from kigi.api.base import Condition
from kigi.api.conditions import (
    CACHED,
    DISKS_READY,
    ISOLATED,
    MACHINES_CREATED,
    PLACED,
    READY,
    RESOLVED,
    STALLED,
    UPDATED,
    Finding,
    merge_conditions,
    problem_findings,
    summary,
)
from kigi.api.deployment import (
    MAX_UNREADY,
    LastChange,
    PlanStatus,
    Progress,
    SystemDeploymentSpec,
    SystemDeploymentStatus,
)
from kigi.domain import names
from kigi.domain.layers import missing_layers, total_bytes
from kigi.errors import KigiError, NotSelected
from kigi.planning.deployment_view import DeploymentView, LayerUse, ObservedInstance
from kigi.planning.expiration import expiration_finding
from kigi.planning.steps import Plan

PHASES = {
    RESOLVED: "Resolved",
    PLACED: "Placed",
    CACHED: "LayersCached",
    DISKS_READY: "ClaimsBound",
    MACHINES_CREATED: "MachinesCreated",
}
"""Phases in the order in which an instance passes them, each with the reason of its condition when that is True."""
OTHER_REASONS = {ISOLATED: "PolicyApplied", UPDATED: "ContentCurrent"}


@dataclass(frozen=True, slots=True)
class _Member:
    """A selected instance with its conditions, if they are about this generation of deployment and instance."""

    name: str
    conditions: dict[str, Condition]
    is_off: bool

    def is_true(self, condition: str) -> bool:
        found = self.conditions.get(condition)
        return found is not None and found.status == "True"


def deployment_status(view: DeploymentView, plan: Plan, error: KigiError | None = None) -> SystemDeploymentStatus:
    """The whole status after one reconcile; ``error`` is the error of carrying out the steps. O(instances)."""
    old = view.old_status or SystemDeploymentStatus()
    spec = view.spec if isinstance(view.spec, SystemDeploymentSpec) else None
    names_ = spec.instance_names() if spec is not None else ()
    members = _members(view, names_)
    unready = [name for name in names_ if name not in members or not members[name].is_true(READY)]
    error = (
        error or (view.spec if isinstance(view.spec, KigiError) else None) or (view.problem if not members else None)
    )
    phases = _phases(spec, names_, members, view.problem)
    ready = error is None and not plan.steps and not unready and not view.deleting
    expiring = expiration_finding(spec, view.now) if spec is not None else None
    findings = [*_summary(view, plan, error, names_, members, unready), *phases, *filter(None, (expiring,))]
    changed = old.observed_generation != view.generation
    return SystemDeploymentStatus(
        observed_generation=view.generation,
        conditions=merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
        replicas=len(view.instances),
        ready_replicas=len(names_) - len(unready),
        updated_replicas=sum(member.is_true(UPDATED) for member in members.values()),
        stopped_replicas=sum(member.is_true(READY) and member.is_off for member in members.values()),
        summary=f"{len(names_) - len(unready)}/{len(names_)}",
        selector=f"{names.LABEL_NAMESPACE}={view.namespace},{names.LABEL_DEPLOYMENT}={view.name}",
        system_name=spec.system_ref.tree_name if ready and spec is not None else old.system_name,
        unready_instances=unready[:MAX_UNREADY],
        plan=_plan_status(None if changed else old.plan, view.layers),
        progress=_progress(view.layers),
        last_change=_last_change(None if changed else old.last_change, phases, ready, view.now),
    )


def _members(view: DeploymentView, selected: Sequence[str]) -> dict[str, _Member]:
    """By name. A report about an older generation of the deployment or of the instance does not count."""
    observed = {instance.name: instance for instance in view.instances if not instance.deleting}
    return {name: _member(view, observed[name]) for name in selected if name in observed}


def _member(view: DeploymentView, instance: ObservedInstance) -> _Member:
    status = instance.status
    if status is None or status.observed_generation != instance.generation:
        return _Member(instance.name, {}, False)
    conditions = {one.type: one for one in status.conditions}
    # An instance may have been reconciled before its deployment existed, or before it selected the instance.
    early = READY in conditions and conditions[READY].reason == NotSelected.reason
    if early or status.deployment_generation not in (None, view.generation):
        return _Member(instance.name, {}, False)
    return _Member(instance.name, conditions, status.running_machines == 0)


def _phases(
    spec: SystemDeploymentSpec | None, selected: Sequence[str], members: dict[str, _Member], problem: KigiError | None
) -> list[Finding]:
    if problem is not None and not members:
        unknown = [Finding(name, None, "Unresolved", "waits for the system") for name in list(PHASES)[1:]]
        return [Finding(RESOLVED, False, problem.reason, str(problem)), *unknown]
    isolated = spec is not None and spec.isolated
    return [_phase(name, selected, members) for name in (*PHASES, *((ISOLATED,) if isolated else ()), UPDATED)]


def _phase(phase: str, selected: Sequence[str], members: dict[str, _Member]) -> Finding:
    """True if it is True of every instance; else with the most frequent reason, and the first instance that has it."""
    open_ = [name for name in selected if name not in members or not members[name].is_true(phase)]
    count = f"{len(selected) - len(open_)} of {len(selected)} instances"
    if not open_:
        return Finding(phase, True, {**PHASES, **OTHER_REASONS}[phase], count)
    found = {
        name: members[name].conditions[phase] for name in open_ if name in members and phase in members[name].conditions
    }
    if not found:
        return Finding(phase, False, "InstancesPending", f"{count}; the others are not reconciled yet")
    reason = _most_frequent([condition.reason for condition in found.values()])
    name, first = next((name, condition) for name, condition in found.items() if condition.reason == reason)
    status = None if all(condition.status == "Unknown" for condition in found.values()) else False
    return Finding(phase, status, reason, f"{count}; {name}: {first.message}")


def _summary(
    view: DeploymentView,
    plan: Plan,
    error: KigiError | None,
    selected: Sequence[str],
    members: dict[str, _Member],
    unready: Sequence[str],
) -> tuple[Finding, Finding, Finding]:
    if view.deleting:
        return summary(ready=False, stalled=False, reason="Deleting", message=f"waits for {plan.waiting_for}")
    if error is not None:
        return problem_findings(error)
    count = f"{len(selected) - len(unready)} of {len(selected)} instances"
    if not unready and not plan.steps:
        state = view.spec.system_ref.tree_name if isinstance(view.spec, SystemDeploymentSpec) else ""
        return summary(ready=True, stalled=False, reason="Deployed", message=f"{count} run {state}")
    return _unready(count, members, unready)


def _unready(count: str, members: dict[str, _Member], unready: Sequence[str]) -> tuple[Finding, Finding, Finding]:
    """Stalled only if nothing goes on any more: each unready instance needs a person."""
    found = {name: members[name] for name in unready if name in members and READY in members[name].conditions}
    stalled = {name: one for name, one in found.items() if one.is_true(STALLED)}
    is_stalled = bool(stalled) and len(stalled) == len(unready)
    going_on = stalled if is_stalled else {name: one for name, one in found.items() if name not in stalled}
    if not going_on:
        more = f"; {len(stalled)} need a person" if stalled else ""
        return summary(ready=False, stalled=False, reason="InstancesPending", message=f"{count} ready{more}")
    reason = _most_frequent([one.conditions[READY].reason for one in going_on.values()])
    name, first = next((name, one) for name, one in going_on.items() if one.conditions[READY].reason == reason)
    message = f"{count} ready; {name}: {first.conditions[READY].message}"
    return summary(ready=False, stalled=is_stalled, reason=reason, message=message)


def _most_frequent(reasons: Sequence[str]) -> str:
    """The most frequent reason; of several, the first one."""
    return Counter(reasons).most_common(1)[0][0]


def _plan_status(old: PlanStatus | None, use: LayerUse) -> PlanStatus:
    """Cost of the last change: the bytes that were missing when it was first seen, and those that arrived since."""
    old = old or PlanStatus()
    missing_now = _missing(use, use.held_on)
    missing = max(old.missing_bytes, missing_now if use.held_before is None else _missing(use, use.held_before))
    return PlanStatus(
        total_bytes=max(old.total_bytes, use.whole_bytes), missing_bytes=missing, moved_bytes=missing - missing_now
    )


def _missing(use: LayerUse, held_on: object) -> int:
    assert isinstance(held_on, dict)
    return sum(
        total_bytes(missing_layers(layers, held_on.get(node, frozenset())).values())
        for node, layers in use.wanted_on.items()
    )


def _progress(use: LayerUse) -> Progress:
    wanted = sum(total_bytes(layers.values()) for layers in use.wanted_on.values())
    held = wanted - _missing(use, use.held_on)
    return Progress(held_bytes=held, wanted_bytes=wanted, percent=100 * held // wanted if wanted else 100)


def _last_change(old: LastChange | None, phases: Sequence[Finding], ready: bool, now: datetime) -> LastChange:
    """Milliseconds from the first reconcile of the change until each phase was first reached."""
    old = old or LastChange()
    started = old.start_time or now
    reached = {finding.type: bool(finding.status) for finding in phases}
    placed = reached.get(PLACED, False)

    def at(before: int | None, done: bool) -> int | None:
        return before if before is not None or not done else round((now - started).total_seconds() * 1000)

    return LastChange(
        start_time=started,
        placed_milliseconds=at(old.placed_milliseconds, placed),
        cached_milliseconds=at(old.cached_milliseconds, placed and reached.get(CACHED, False)),
        machines_created_milliseconds=at(old.machines_created_milliseconds, reached.get(MACHINES_CREATED, False)),
        ready_milliseconds=at(old.ready_milliseconds, ready),
    )
