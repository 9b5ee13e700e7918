"""Status of a SystemDeployment: conditions, bytes, phases, and every machine of every instance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kigi.api.conditions import (
    CACHED,
    DISKS_READY,
    MACHINES_CREATED,
    PLACED,
    RESOLVED,
    Finding,
    merge_conditions,
    problem_findings,
    summary,
)
from kigi.api.deployment import (
    MAX_MESSAGE,
    InstanceStatus,
    MachineStatus,
    PlanStatus,
    Progress,
    SystemDeploymentStatus,
    Timings,
)
from kigi.domain import names
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes
from kigi.domain.quantities import format_bytes
from kigi.errors import KigiError, needs_action
from kigi.planning.deployment import DeploymentPlan, Target, claim_of, claims_of, is_outdated, is_running
from kigi.planning.manifests import Owner
from kigi.planning.placement import NoNode
from kigi.planning.view import DeploymentView, MachineState
from kigi.status.history import history


def deployment_status(
    view: DeploymentView, plan: DeploymentPlan, error: KigiError | None = None
) -> SystemDeploymentStatus:
    """The whole status after one pass; ``error`` is what went wrong while the steps were carried out.

    Ready is True only of what was observed before this pass's steps, so it never speaks of a wish as of a fact.
    """
    old = view.old_status or SystemDeploymentStatus()
    error = error or plan.error
    instances = _instances(view, plan)
    cost = _Bytes.of(view, plan.targets)
    done = _phases(view, plan, cost)
    ready = error is None and not plan.steps and all(finding.status for finding in done)
    ready = ready and all(instance.ready for instance in instances)
    ready_replicas = sum(instance.ready for instance in instances)
    findings = [*_sum_up(view, plan, error, ready, done, instances), *done]
    changed = old.observed_generation != view.generation
    return SystemDeploymentStatus(
        observed_generation=view.generation,
        conditions=merge_conditions(old.conditions, findings, generation=view.generation, now=view.now),
        system=view.spec.system.name if ready else old.system,
        plan=_plan_status(None if changed else old.plan, plan, cost),
        progress=Progress(
            held_bytes=cost.wanted - cost.missing,
            wanted_bytes=cost.wanted,
            percent=100 * (cost.wanted - cost.missing) // cost.wanted if cost.wanted else 100,
        ),
        replicas=len({instance.instance for instance in instances}),
        ready_replicas=ready_replicas,
        selector=f"{names.LABEL_NAMESPACE}={view.namespace},{names.LABEL_DEPLOYMENT}={view.name}",
        timings=_timings(None if changed else old.timings, done, ready, view.now),
        history=history(view, plan.targets),
        instances=that_fit(instances),
    )


_ALWAYS_FIT = 2000
"""Machines that fit into one object, whatever their names and messages."""
_INSTANCES_BYTES = 1_100_000
"""JSON of all instances: leaves a third of what etcd takes in one object to spec and history."""


def that_fit(
    instances: Sequence[InstanceStatus], limit_bytes: int = _INSTANCES_BYTES, always: int = _ALWAYS_FIT
) -> list[InstanceStatus]:
    """The instances, in their order; of too many machines less is said, first of those in ready instances.

    What is left out can be read elsewhere: the node from the volume, the system from the instance. O(machines).
    """
    whole = list(instances)
    if sum(len(instance.machines) for instance in whole) <= always:
        return whole
    size = sum(map(_bytes, whole))
    for place in sorted(range(len(whole)), key=lambda place: not whole[place].ready):
        if size <= limit_bytes:
            break
        size -= _bytes(whole[place])
        whole[place] = _brief(whole[place])
        size += _bytes(whole[place])
    return whole


def _bytes(instance: InstanceStatus) -> int:
    return len(instance.model_dump_json(by_alias=True, exclude_none=True))


def _brief(instance: InstanceStatus) -> InstanceStatus:
    machines = [
        machine.model_copy(
            update={"node": None, "message": None} | ({"system": None} if machine.system == instance.system else {})
        )
        for machine in instance.machines
    ]
    return instance.model_copy(update={"machines": machines, "placement": None})


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Bytes of the wished disks over all nodes; each node counts a layer once."""

    whole: int
    """Every machine's whole chain: what it costs without trees and caches."""
    wanted: int
    missing: int
    missing_on: Mapping[str, Mapping[Digest, Layer]]
    wanted_on: Mapping[str, Mapping[Digest, Layer]]

    @classmethod
    def of(cls, view: DeploymentView, targets: Sequence[Target]) -> _Bytes:
        wanted_on: dict[str, dict[Digest, Layer]] = defaultdict(dict)
        for target in targets:
            for chain in target.wish.chains:
                wanted_on[target.node].update({layer.digest: layer for layer in chain})
        missing_on = {
            node: missing_layers(layers, view.nodes[node].held if node in view.nodes else frozenset())
            for node, layers in wanted_on.items()
        }
        return cls(
            whole=sum(total_bytes(chain) for target in targets for chain in target.wish.chains),
            wanted=sum(total_bytes(layers.values()) for layers in wanted_on.values()),
            missing=sum(total_bytes(layers.values()) for layers in missing_on.values()),
            missing_on=missing_on,
            wanted_on=wanted_on,
        )


def _plan_status(old: PlanStatus | None, plan: DeploymentPlan, cost: _Bytes) -> PlanStatus:
    """Cost of the last change: what was missing when it was first seen, and how much of that has arrived."""
    if old is None or old.total_bytes == 0:
        total, missing = cost.whole, cost.missing
    else:
        total, missing = max(old.total_bytes, cost.whole), max(old.missing_bytes, cost.missing)
    if not plan.targets:
        return old or PlanStatus()
    saved = 1 - missing / total if total else 0.0
    return PlanStatus(
        total_bytes=total, missing_bytes=missing, moved_bytes=missing - cost.missing, saved_ratio=round(saved, 6)
    )


def _phases(view: DeploymentView, plan: DeploymentPlan, cost: _Bytes) -> list[Finding]:
    if plan.error is not None and not plan.targets:
        unknown = [PLACED, CACHED, DISKS_READY, MACHINES_CREATED]
        first = Finding(RESOLVED, False, plan.error.reason, str(plan.error))
        return [first, *(Finding(name, None, "Unresolved", "waits for the system") for name in unknown)]
    return [
        Finding(RESOLVED, True, "Resolved", f"{len(view.spec.overrides)} overrides, state {view.spec.system.name}"),
        _placed(view, plan),
        _cached(view, cost),
        _disks_ready(view, plan),
        _machines_created(view, plan),
    ]


def _placed(view: DeploymentView, plan: DeploymentPlan) -> Finding:
    placed = sum(target.volume is not None for target in plan.targets)
    lost = sorted({t.node for t in plan.targets if not (t.node in view.nodes and view.nodes[t.node].ready)})
    if lost:
        return Finding(PLACED, False, "NodeNotReady", f"waits for {', '.join(lost)}, or for that Node to be deleted")
    if isinstance(plan.error, NoNode):
        return Finding(PLACED, False, plan.error.reason, str(plan.error))
    message = f"{placed} of {len(plan.targets)} disks have a node"
    return Finding(PLACED, placed == len(plan.targets), "Placed" if placed == len(plan.targets) else "Placing", message)


def _cached(view: DeploymentView, cost: _Bytes) -> Finding:
    if cost.missing == 0:
        return Finding(CACHED, True, "LayersCached", f"{format_bytes(cost.wanted)} held by {len(cost.wanted_on)} nodes")
    troubles = list(_cache_troubles(view, cost))
    if troubles:
        return min(troubles, key=lambda finding: not needs_action(finding.reason))
    node = max(sorted(cost.missing_on), key=lambda name: total_bytes(cost.missing_on[name].values()))
    missing, wanted = cost.missing_on[node], cost.wanted_on[node]
    lack, whole = total_bytes(missing.values()), total_bytes(wanted.values())
    return Finding(
        CACHED,
        False,
        "LayersWarming",
        f"{len(wanted) - len(missing)} of {len(wanted)} layers ({format_bytes(whole - lack)} of {format_bytes(whole)}) "
        f"on {node}",
    )


def _cache_troubles(view: DeploymentView, cost: _Bytes) -> Iterator[Finding]:
    """What keeps missing layers from coming, by node and digest; what a silent daemon said is not known any more."""
    for node, missing in sorted(cost.missing_on.items()):
        state = view.nodes.get(node)
        if not missing or state is None:
            continue
        if not state.cache_alive:
            yield Finding(CACHED, False, "CacheSilent", f"the cache daemon of {node} has not reported lately")
            continue
        for digest in sorted(missing.keys() & state.refused.keys()):
            reason, message = state.refused[digest]
            yield Finding(CACHED, False, reason, f"{node}: layer {digest}: {message}")


def _disks_ready(view: DeploymentView, plan: DeploymentPlan) -> Finding:
    bound = {claim.meta.name for claim in view.claims if claim.bound and not claim.meta.deleting}
    owner = Owner(view.namespace, view.name, view.uid)
    ready = sum(all(claim in bound for claim in claims_of(target, owner)) for target in plan.targets)
    message = f"the claims of {ready} of {len(plan.targets)} machines are bound"
    done = ready == len(plan.targets)
    return Finding(DISKS_READY, done, "ClaimsBound" if done else "ClaimsPending", message)


def _machines_created(view: DeploymentView, plan: DeploymentPlan) -> Finding:
    owner = Owner(view.namespace, view.name, view.uid)
    made = 0
    for target in plan.targets:
        machine = plan.machines.get(target.wish.slot)
        made += machine is not None and not machine.vm.meta.deleting and machine.vm.claim == claim_of(target, owner)
    message = f"{made} of {len(plan.targets)} VirtualMachines name their disk"
    done = made == len(plan.targets)
    return Finding(MACHINES_CREATED, done, "MachinesCreated" if done else "MachinesPending", message)


def _sum_up(
    view: DeploymentView,
    plan: DeploymentPlan,
    error: KigiError | None,
    ready: bool,
    phases: Sequence[Finding],
    instances: Sequence[InstanceStatus],
) -> tuple[Finding, Finding, Finding]:
    ready_replicas = sum(instance.ready for instance in instances)
    if view.deleting:
        return summary(ready=False, stalled=False, reason="Deleting", message=f"waits for {plan.waiting_for}")
    if error is not None:
        return problem_findings(error)
    if ready:
        message = f"{ready_replicas} of {view.spec.replicas} instances run {view.spec.system.name}"
        return summary(ready=True, stalled=False, reason="Deployed", message=message)
    open_phase = next((phase for phase in phases if not phase.status), None)
    if open_phase is not None:
        stalled = open_phase.type == CACHED and needs_action(open_phase.reason)
        return summary(ready=False, stalled=stalled, reason=open_phase.reason, message=open_phase.message)
    failed = next((m for i in instances for m in i.machines if m.message), None)
    down = sum(m.state not in ("Running", "Stopped") for i in instances for m in i.machines)
    message = f"{ready_replicas} of {view.spec.replicas} instances ready, {down} machines to come"
    if failed is not None:
        message = f"{message}; {failed.name}: {failed.message}"
    return summary(ready=False, stalled=False, reason="MachinesStarting", message=message)


def _instances(view: DeploymentView, plan: DeploymentPlan) -> list[InstanceStatus]:
    targets: dict[int, list[Target]] = defaultdict(list)
    for target in plan.targets:
        targets[target.wish.instance].append(target)
    overrides = {override.instance: override for override in view.spec.overrides}
    owner = Owner(view.namespace, view.name, view.uid)
    told = {
        (i.instance, m.name, m.revision): m.message
        for i in (view.old_status.instances if view.old_status else [])
        for m in i.machines
        if m.state in ("Starting", "Failed", "CrashLooping")
    }
    instances: list[InstanceStatus] = []
    for instance in sorted(targets):
        override = overrides.get(instance)
        system = override.system if override and override.system else view.spec.system
        machines = [
            _machine(
                target,
                plan.machines.get(target.wish.slot),
                claim_of(target, owner),
                told.get((instance, target.wish.machine, target.revision)),
            )
            for target in targets[instance]
        ]
        wanted = {t.wish.machine: "Running" if t.wish.running else "Stopped" for t in targets[instance]}
        instances.append(
            InstanceStatus(
                instance=instance,
                ready=all(machine.state == wanted[machine.name] for machine in machines),
                system=system.name,
                placement=next((t.why for t in targets[instance] if t.why), None) or _old_why(view, instance),
                machines=machines,
            )
        )
    return instances


def _old_why(view: DeploymentView, instance: int) -> str | None:
    """The reason given when the instance was placed; said once, kept for people."""
    old = view.old_status.instances if view.old_status else []
    return next((i.placement for i in old if i.instance == instance), None)


def _machine(target: Target, machine: MachineState | None, claim: str, told: str | None) -> MachineStatus:
    return MachineStatus(
        name=target.wish.machine,
        node=target.node,
        state=machine_state(target, machine, claim),
        system=target.fingerprint.system,
        revision=target.revision,
        message=_short(_waiting(target) or _trouble(machine, told)),
    )


def machine_state(target: Target, machine: MachineState | None, claim: str) -> str:
    """One word for where a VM is on its way to its wish."""
    if not target.cached:
        return "Warming"
    if target.waits_for:
        return "Waiting"
    if machine is None or machine.vm.claim is None:
        return "Pending"
    if machine.vm.claim != claim or (machine.vmi_claim is not None and machine.vmi_claim != claim):
        return "Restarting"
    if machine.vmi_phase == "Failed":
        return "Failed"
    if not target.wish.running:
        return "Stopped" if machine.vmi is None else "Stopping"
    if is_running(machine):
        return "Running"
    if is_halted(machine):
        return "Restarting"
    if machine.paused:
        return "Paused"
    if is_outdated(machine) and machine.vmi_phase != "Succeeded":
        return "Restarting"
    if machine.vmi_phase == "Succeeded" or (machine.vmi is None and machine.vm.printable_status == "Stopped"):
        return "PoweredOff"
    return _TROUBLES.get(machine.vm.printable_status, "Starting")


_TROUBLES = {
    "ErrorUnschedulable": "Unschedulable",
    "CrashLoopBackOff": "CrashLooping",
    **dict.fromkeys(("ErrImagePull", "ImagePullBackOff", "ErrorPvcNotFound", "DataVolumeError"), "Failed"),
}
"""KubeVirt's printable states of a VM that will not run by itself, and our words for them.

Source: KubeVirt staging/src/kubevirt.io/api/core/v1/types.go, VirtualMachinePrintableStatus, the same in 1.7 and 1.9.
"""


def is_halted(machine: MachineState) -> bool:
    """Off, or on its way there, so that KubeVirt forgets its last run."""
    return machine.blocked_by_ghost_record or (machine.vm.halted_until is not None and not machine.vm.running)


def _waiting(target: Target) -> str | None:
    return f"starts after {', '.join(target.waits_for)}" if target.waits_for else None


def _short(message: str | None) -> str | None:
    return message if message is None or len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def _trouble(machine: MachineState | None, told: str | None) -> str | None:
    """``told`` is the last message: between two starts that fail, KubeVirt has forgotten why the first one did."""
    if machine is not None and machine.persistent_state:
        return f"no reset reaches the state of its persistent domain.{machine.persistent_state}"
    if machine is None or is_running(machine):
        return None
    if is_halted(machine):
        return "KubeVirt still remembers its last run; it is off for half a minute, and starts then"
    if machine.paused and is_outdated(machine):
        return "its template has changed; it restarts when it is resumed"
    printable = machine.vm.printable_status
    if machine.message or printable not in _TROUBLES:
        return machine.message or None
    return (told if printable == "CrashLoopBackOff" else None) or printable


def _timings(old: Timings | None, phases: Sequence[Finding], ready: bool, now: datetime) -> Timings:
    """Seconds from the change being seen until each phase was first reached."""
    started = old.started_at if old and old.started_at else now
    reached = {finding.type: bool(finding.status) for finding in phases}

    def at(before: float | None, done: bool) -> float | None:
        return before if before is not None or not done else round((now - started).total_seconds(), 3)

    cached = reached.get(PLACED, False) and reached.get(CACHED, False)
    return Timings(
        started_at=started,
        placed_seconds=at(old.placed_seconds if old else None, reached.get(PLACED, False)),
        cached_seconds=at(old.cached_seconds if old else None, cached),
        machines_created_seconds=at(
            old.machines_created_seconds if old else None, reached.get(MACHINES_CREATED, False)
        ),
        ready_seconds=at(old.ready_seconds if old else None, ready),
    )
