"""Status of a SystemDeployment: conditions, bytes, timings, history and instances."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kigi.api.conditions import (
    CACHED,
    MACHINES_CREATED,
    PLACED,
    Finding,
    merge_conditions,
    problem_findings,
    summary,
)
from kigi.api.deployment import InstanceStatus, PlanStatus, Progress, SystemDeploymentStatus, Timings
from kigi.domain import names
from kigi.errors import KigiError, needs_action
from kigi.planning.deployment import DeploymentPlan
from kigi.planning.view import DeploymentView
from kigi.status.history import history
from kigi.status.instances import instance_statuses, shorten_to_fit
from kigi.status.layer_bytes import LayerBytes
from kigi.status.phases import phase_findings


def deployment_status(
    view: DeploymentView, plan: DeploymentPlan, error: KigiError | None = None
) -> SystemDeploymentStatus:
    """The whole status after one reconcile; ``error`` is the error of carrying out the steps.

    Ready is True only if the view was as desired before the steps: a status never reports a desired state as reached.
    """
    old = view.old_status or SystemDeploymentStatus()
    error = error or plan.error
    instances = instance_statuses(view, plan)
    cost = LayerBytes.of(view, plan.placed)
    phases = phase_findings(view, plan, cost)
    ready = error is None and not plan.steps and all(finding.status for finding in phases)
    ready = ready and all(instance.ready for instance in instances)
    findings = [*_summary(view, plan, error, ready, phases, instances), *phases]
    changed = old.observed_generation != view.generation
    return SystemDeploymentStatus(
        observed_generation=view.generation,
        conditions=merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
        system=view.spec.system.name if ready else old.system,
        plan=_plan_status(None if changed else old.plan, plan, cost),
        progress=_progress(cost),
        replicas=len(instances),
        ready_replicas=sum(instance.ready for instance in instances),
        selector=f"{names.LABEL_NAMESPACE}={view.namespace},{names.LABEL_DEPLOYMENT}={view.name}",
        timings=_timings(None if changed else old.timings, phases, ready, view.now),
        history=history(view, plan.placed),
        instances=shorten_to_fit(instances),
    )


def _summary(
    view: DeploymentView,
    plan: DeploymentPlan,
    error: KigiError | None,
    ready: bool,
    phases: Sequence[Finding],
    instances: Sequence[InstanceStatus],
) -> tuple[Finding, Finding, Finding]:
    if view.deleting:
        return summary(ready=False, stalled=False, reason="Deleting", message=f"waits for {plan.waiting_for}")
    if error is not None:
        return problem_findings(error)
    if ready:
        message = f"{len(instances)} of {view.spec.replicas} instances run {view.spec.system.name}"
        return summary(ready=True, stalled=False, reason="Deployed", message=message)
    open_phase = next((phase for phase in phases if not phase.status), None)
    if open_phase is not None:
        stalled = open_phase.type == CACHED and needs_action(open_phase.reason)
        return summary(ready=False, stalled=stalled, reason=open_phase.reason, message=open_phase.message)
    return summary(ready=False, stalled=False, reason="MachinesStarting", message=_starting(view, instances))


def _starting(view: DeploymentView, instances: Sequence[InstanceStatus]) -> str:
    ready = sum(instance.ready for instance in instances)
    machines = [machine for instance in instances for machine in instance.machines]
    down = sum(machine.state not in ("Running", "Stopped") for machine in machines)
    message = f"{ready} of {view.spec.replicas} instances ready, {down} machines not running yet"
    failed = next((machine for machine in machines if machine.message), None)
    return f"{message}; {failed.name}: {failed.message}" if failed is not None else message


def _plan_status(old: PlanStatus | None, plan: DeploymentPlan, cost: LayerBytes) -> PlanStatus:
    """Cost of the last change: the bytes that were missing when it was first seen, and those that arrived since."""
    if not plan.placed:
        return old or PlanStatus()
    if old is None or old.total_bytes == 0:
        total, missing = cost.whole, cost.missing
    else:
        total, missing = max(old.total_bytes, cost.whole), max(old.missing_bytes, cost.missing)
    saved = 1 - missing / total if total else 0.0
    return PlanStatus(
        total_bytes=total, missing_bytes=missing, moved_bytes=missing - cost.missing, saved_ratio=round(saved, 6)
    )


def _progress(cost: LayerBytes) -> Progress:
    held = cost.wanted - cost.missing
    percent = 100 * held // cost.wanted if cost.wanted else 100
    return Progress(held_bytes=held, wanted_bytes=cost.wanted, percent=percent)


def _timings(old: Timings | None, phases: Sequence[Finding], ready: bool, now: datetime) -> Timings:
    """Seconds from the first reconcile of the change until each phase was first reached."""
    old = old or Timings()
    started = old.started_at or now
    reached = {finding.type: bool(finding.status) for finding in phases}
    placed = reached.get(PLACED, False)

    def at(before: float | None, done: bool) -> float | None:
        return before if before is not None or not done else round((now - started).total_seconds(), 3)

    return Timings(
        started_at=started,
        placed_seconds=at(old.placed_seconds, placed),
        cached_seconds=at(old.cached_seconds, placed and reached.get(CACHED, False)),
        machines_created_seconds=at(old.machines_created_seconds, reached.get(MACHINES_CREATED, False)),
        ready_seconds=at(old.ready_seconds, ready),
    )
