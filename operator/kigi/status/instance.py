"""Status of a SystemInstance: conditions, machines and history."""

from __future__ import annotations

from collections.abc import Sequence, Set

from kigi.api.conditions import CACHED, Finding, bounded, merge_conditions, problem_findings, summary
from kigi.api.instance import MAX_NODE_NAMES, MachineStatus, SystemInstanceStatus
from kigi.errors import KigiError, needs_action
from kigi.planning.instance import InstancePlan
from kigi.planning.view import InstanceView
from kigi.status.history import history
from kigi.status.layer_bytes import LayerBytes
from kigi.status.machines import is_unpulled, machine_status
from kigi.status.phases import phase_findings
from kigi.status.updates import updated_finding

MAX_PLACEMENT_BYTES = 256


def instance_status(view: InstanceView, plan: InstancePlan, error: KigiError | None = None) -> SystemInstanceStatus:
    """The whole status after one reconcile; ``error`` is the error of carrying out the steps.

    Ready is True only if the view was as desired before the steps: a status never reports a desired state as reached.
    """
    old = view.old_status or SystemInstanceStatus()
    error = error or plan.error
    machines = _machine_statuses(view, plan, old)
    desired = ["Running" if placed.target.running else "Stopped" for placed in plan.placed]
    as_desired = sum(machine.state == wanted for machine, wanted in zip(machines, desired, strict=True))
    phases = phase_findings(view, plan, LayerBytes.of(view.nodes, plan.placed))
    ready = error is None and not plan.steps and all(finding.status for finding in phases)
    ready = ready and as_desired == len(machines)
    unpulled = {placed.target.machine for placed in plan.placed if is_unpulled(placed)}
    summary_ = _summary(view, error, ready, phases, machines, as_desired, unpulled)
    findings = [*summary_, *phases, updated_finding(view, plan.placed)]
    nodes = sorted({placed.node for placed in plan.placed})
    placement = next((placed.why for placed in plan.placed if placed.why), None) or old.placement
    return SystemInstanceStatus(
        observed_generation=view.generation,
        deployment_generation=view.deployment_generation,
        conditions=merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
        system_name=view.system_name,
        summary=f"{as_desired}/{len(machines)}",
        node_names=nodes[:MAX_NODE_NAMES],
        placement=bounded(placement, MAX_PLACEMENT_BYTES) if placement else None,
        running_machines=sum(machine.state == "Running" for machine in machines),
        machines=machines if plan.placed else _kept(old, view.system_name),
        history=history(view, plan.placed),
    )


def _machine_statuses(view: InstanceView, plan: InstancePlan, old: SystemInstanceStatus) -> list[MachineStatus]:
    messages = {
        (machine.name, machine.revision): machine.message
        for machine in old.machines
        if machine.state in ("Starting", "Failed", "CrashLooping")
    }
    return [
        machine_status(
            placed, view.system_name, messages.get((placed.target.machine, placed.revision)), view.written_bytes
        )
        for placed in plan.placed
    ]


def _kept(old: SystemInstanceStatus, system: str) -> list[MachineStatus]:
    """The machines of the last status, for a status whose ``systemName`` is ``system``."""
    names = [machine.system_name or old.system_name for machine in old.machines]
    return [
        machine.model_copy(update={"system_name": name if name != system else None})
        for machine, name in zip(old.machines, names, strict=True)
    ]


def _summary(
    view: InstanceView,
    error: KigiError | None,
    ready: bool,
    phases: Sequence[Finding],
    machines: Sequence[MachineStatus],
    as_desired: int,
    unpulled: Set[str],
) -> tuple[Finding, Finding, Finding]:
    if error is not None:
        return problem_findings(error)
    if ready:
        message = f"{as_desired} of {len(machines)} machines are as {view.system_name} defines them"
        return summary(ready=True, stalled=False, reason="Deployed", message=message)
    open_phase = next((phase for phase in phases if not phase.status), None)
    if open_phase is not None:
        stalled = open_phase.type == CACHED and needs_action(open_phase.reason)
        return summary(ready=False, stalled=stalled, reason=open_phase.reason, message=open_phase.message)
    message = f"{as_desired} of {len(machines)} machines are as desired"
    named = [machine for machine in machines if machine.message]
    failed = next((machine for machine in named if machine.name in unpulled), next(iter(named), None))
    message = f"{message}; {failed.name}: {failed.message}" if failed is not None else message
    reason = "ImageNotPulled" if unpulled else "MachinesStarting"
    return summary(ready=False, stalled=False, reason=reason, message=message)
