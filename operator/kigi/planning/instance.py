"""The plan of one SystemInstance: its stages, in the order that makes every prefix of a plan safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kigi.domain import kinds
from kigi.errors import HookPending, HookUnavailable, KigiError, StateBesideDisk
from kigi.planning.cleanup import delete_disks, delete_machines
from kigi.planning.desired import desired_targets
from kigi.planning.disks import choose_disks, create_claims, create_volumes
from kigi.planning.edits import record_content
from kigi.planning.isolation import isolation_steps
from kigi.planning.machines import apply_machines, in_boot_order, is_outdated, is_running, restart_machines
from kigi.planning.observed_disks import ObservedDisks
from kigi.planning.placed import Owner, PlacedTarget, Situation
from kigi.planning.steps import AddFinalizer, Plan, Step
from kigi.planning.view import InstanceView


@dataclass(frozen=True, slots=True)
class InstancePlan(Plan):
    """Steps, and what they were derived from; the status reports both."""

    placed: tuple[PlacedTarget, ...] = ()
    error: KigiError | None = None
    """Why the plan does not reach the whole spec; the steps are safe in spite of it."""


def add_finalizer(situation: Situation) -> Iterator[Step]:
    """Adds the finalizer to the SystemInstance.

    Safe: it creates nothing, and precedes everything that the finalizer makes sure to delete.
    """
    view = situation.view
    if not view.has_finalizer:
        yield AddFinalizer(view.namespace, view.object_name, kinds.INSTANCE)


def isolate_instance(situation: Situation) -> Iterator[Step]:
    """Applies the instance's NetworkPolicy, or deletes one that is not needed.

    Safe: the policy exists before the instance's first VM. If isolation is switched off, running VMs gain access only.
    """
    if situation.placed:
        yield from isolation_steps(situation.view, situation.owner)


STAGES: tuple[Callable[[Situation], Iterator[Step]], ...] = (
    add_finalizer,
    isolate_instance,
    create_volumes,
    create_claims,
    apply_machines,
    restart_machines,
    record_content,
    delete_machines,
    delete_disks,
)
"""Stages of a plan, in their order; each docstring has the stage's part of the safety argument.

A running VM is disturbed last: layers are requested by volumes, a VM names a disk after its node holds the layers, its
VMI is deleted after the VM names the disk, and the old disk is deleted after no VM and no VMI names it.
"""


def plan_instance(view: InstanceView, *, hook_image: str = "") -> InstancePlan:
    """Next steps that bring one instance towards what its deployment and its own settings ask for.

    Every prefix of the steps is a safe place to stop, see ``STAGES``. A plan never moves a running VM. No steps means
    that the spec is reached, or that the plan waits for what ``waiting_for`` names. O(machines x chain length), no I/O.

    Kigi's own status decides nothing: revisions, nodes and fingerprints are read from volumes. Only what a component
    has measured or observed is read from a status:

    - NodeCache (daemon): ``layers`` that are held or being fetched, ``budgetBytes``; its Lease. A VM must not
      start above a missing layer, and only the daemon knows which layers it has verified.
    - Node: condition Ready and allocatable memory; CSINode: the registered driver. Placement needs them.
    - VirtualMachineInstance (KubeVirt): phase, Ready and Paused decide about boot order and restarts for a template;
      the reason of a failed synchronization decides whether a VM stays off because of a ghost record.
    """
    owner = Owner(view.namespace, view.deployment, view.name, view.uid)
    try:
        disks = ObservedDisks(view)
        targets = desired_targets(view, disks, hook_image=hook_image)
        placed, error = choose_disks(view, owner, disks, targets)
    except KigiError as exc:
        return InstancePlan(error=exc)
    placed = in_boot_order(placed, {target.machine for target in targets})
    situation = Situation(view, owner, targets, placed, hook_image)
    steps: list[Step] = []
    error = error or _hook_error(view)
    for stage in STAGES:
        stage_error = _run(stage, situation, steps)
        error = error or stage_error
    return InstancePlan(
        steps=tuple(steps),
        waiting_for=_waiting_for(placed),
        placed=placed,
        error=error or _persistent_state(view, placed),
    )


def _run(stage: Callable[[Situation], Iterator[Step]], situation: Situation, steps: list[Step]) -> KigiError | None:
    """Appends the stage's steps, and returns its error; the steps before the error count."""
    try:
        for step in stage(situation):
            steps.append(step)
    except KigiError as exc:
        return exc
    return None


def _hook_error(view: InstanceView) -> KigiError | None:
    if view.kubevirt.hook is not None:
        return None
    kind = HookPending if view.kubevirt.pending else HookUnavailable
    return kind(view.kubevirt.why_not)


def _persistent_state(view: InstanceView, placed: Sequence[PlacedTarget]) -> StateBesideDisk | None:
    """A VMI that has persistent state because of its preference; templates with such state are refused earlier."""
    for one in placed:
        machine = one.observed
        if machine is None or not view.owns(machine.vm) or is_outdated(machine):
            continue
        if machine.persistent_state:
            return StateBesideDisk(
                f"SystemNode {one.target.system}: machine {one.target.machine}: its preference adds a persistent "
                f"domain.{machine.persistent_state}, whose state no reset reaches; set patch.merge.spec.domain."
                f"{machine.persistent_state}.persistent: false"
            )
    return None


def _waiting_for(placed: Sequence[PlacedTarget]) -> str:
    cold = sum(1 for one in placed if not one.is_cached)
    if cold:
        return f"layers of {cold} machines"
    down = sum(1 for one in placed if one.target.running and not is_running(one.observed))
    return f"{down} machines to run" if down else ""
