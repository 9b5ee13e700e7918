"""VirtualMachines of an instance: boot order, creation, changes, restarts, and what their VMIs run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from kigi.errors import NameTaken
from kigi.planning.edits import older_machine_patch
from kigi.planning.isolation import may_start
from kigi.planning.placed import PlacedTarget, Situation
from kigi.planning.steps import ApplyObject, RestartMachine, Step
from kigi.planning.view import MachineState
from kigi.planning.vm_manifest import VmSettings, build_machine, hook_annotation

FORGOTTEN_AFTER = timedelta(seconds=30)
"""virt-handler looks for sockets of ended launchers every 11 s and then drops its ghost records of their VMIs."""


def apply_machines(situation: Situation) -> Iterator[Step]:
    """Creates the VMs that are missing, and applies those whose disk, template or run strategy differs.

    Safe: a VM names a disk only after its node holds every layer of it, and after the instance's NetworkPolicy exists.
    A running VMI is not disturbed, as KubeVirt gives it neither another disk nor another template. Without the hook
    that makes KubeVirt attach the disk as qcow2 there is no VM.
    Raises NameTaken or SpecInvalid; VMs before the one with the error are applied.
    """
    view, hook = situation.view, situation.view.kubevirt.hook
    if hook is None:
        return
    sidecars = hook_annotation(situation.hook_image) if hook == "Sidecar" else None
    if not may_start(view):
        return
    for placed in situation.placed:
        if not placed.is_cached:
            continue
        machine = placed.observed
        if machine is not None and not view.owns(machine.vm):
            if machine.vm.owner_uid:
                continue  # of a former instance of this name: it is deleted first
            raise NameTaken(
                f"VirtualMachine {view.namespace}/{machine.vm.meta.name} exists and does not belong to this "
                "instance; rename the deployment or delete the VM"
            )
        until = halted_until(machine, view.now)
        running = should_run(placed) and until is None
        if machine is not None and (machine.vm.meta.deleting or _is_current(placed, machine, sidecars, running)):
            continue
        settings = VmSettings(view.spec.placement, hook, situation.hook_image, running, until)
        if placed.target.is_older and machine is not None:
            yield older_machine_patch(placed, machine, settings)
        else:
            yield ApplyObject(build_machine(situation.owner, placed, settings))


def restart_machines(situation: Situation) -> Iterator[Step]:
    """Deletes VMIs that run on an old disk or with old hardware; KubeVirt starts the next one from the template.

    Safe: the VM's template names the new disk or hardware already, so the next VMI has it. A disk that is replaced is
    discarded, so its guest gets no time to shut down; a guest whose disk stays does.
    """
    view = situation.view
    for placed in situation.placed:
        machine = placed.observed
        if machine is None or machine.vmi is None or machine.vmi_deleting or not view.owns(machine.vm):
            continue
        if machine.vm.claim != placed.claim:
            continue
        meta = machine.vmi.meta
        if machine.vmi.claim != placed.claim:
            yield RestartMachine(view.namespace, meta.name, meta.uid)
        elif placed.target.running and _takes_new_hardware(placed, machine):
            yield RestartMachine(view.namespace, meta.name, meta.uid, gracefully=True)


def in_boot_order(placed: Sequence[PlacedTarget], known: Collection[str]) -> tuple[PlacedTarget, ...]:
    """The targets with ``waits_for``: machines of their ``after`` that should run and are not ready on their disk.

    A machine that runs on its disk waits for none: it is not stopped when a machine before it fails. ``known``: names
    of all machines of the instance; one that is alone in another state may name others that the instance does not have.
    """
    ready = {one.slot: not one.target.running or _runs_on_its_disk(one) for one in placed}

    def waits_for(one: PlacedTarget, after: Sequence[str]) -> tuple[str, ...]:
        machine = one.observed
        if machine is not None and machine.vmi_claim == one.claim == machine.vm.claim:
            return ()
        waiting = (name for name in after if not ready.get((one.target.instance, name), False))
        return tuple(name for name in waiting if name in known)

    found: list[PlacedTarget] = []
    for one in placed:
        after = one.target.blueprint.machine.after
        found.append(replace(one, waits_for=waits_for(one, after)) if after else one)
    return tuple(found)


def should_run(placed: PlacedTarget) -> bool:
    """Whether the VM should run now: it is switched on, its ``after`` machines are ready, and its last VMI has ended.

    With RerunOnFailure KubeVirt starts a VM only if the run strategy changes while there is no VMI. A VM that is
    switched on while its old VMI is terminating would stay off.
    """
    machine = placed.observed
    ending = machine is not None and not machine.vm.running and machine.vmi_deleting
    return placed.target.running and not placed.waits_for and not ending


def halted_until(machine: MachineState | None, now: datetime) -> datetime | None:
    """Time until which the VM stays off, so that KubeVirt drops its ghost record; None: it may run.

    The time is kept in an annotation of the VM, so that another operator waits for it, too.
    """
    if machine is None:
        return None
    until = machine.vm.halted_until
    if until is not None and until - now > 2 * FORGOTTEN_AFTER:
        until = None  # written by a clock that has been set back since: the VM would stay off for as long
    if machine.blocked_by_ghost_record:
        return until if until and not machine.vm.running else now + FORGOTTEN_AFTER
    return until if until and now < until else None


def is_running(machine: MachineState | None) -> bool:
    """Whether the VMI is ready and runs on the disk and the hardware that the VM's template names."""
    if machine is None or machine.vmi is None:
        return False
    vmi = machine.vmi
    serving = vmi.phase == "Running" and vmi.ready and not vmi.paused and not vmi.meta.deleting
    return serving and vmi.claim == machine.vm.claim and not is_outdated(machine)


def is_outdated(machine: MachineState) -> bool:
    """Whether the VMI was started with other hardware than the VM's template names.

    False if either hash is missing: a VM of an operator that did not record it is not restarted.
    """
    if machine.vmi is None or not (machine.vm.hardware and machine.vmi.hardware):
        return False
    return machine.vmi.hardware != machine.vm.hardware


def _is_current(placed: PlacedTarget, machine: MachineState, sidecars: str | None, running: bool) -> bool:
    """Whether the VM is as this plan would apply it; ``sidecars`` None: that annotation does not matter."""
    vm, blueprint = machine.vm, placed.target.blueprint
    return (
        vm.claim == placed.claim
        and vm.running == running
        and vm.template_hash == blueprint.template_hash
        and vm.hardware == blueprint.hardware_hash
        and sidecars in (None, vm.sidecars)
    )


def _runs_on_its_disk(placed: PlacedTarget) -> bool:
    machine = placed.observed
    return machine is not None and is_running(machine) and machine.vm.claim == placed.claim


def _takes_new_hardware(placed: PlacedTarget, machine: MachineState) -> bool:
    """Whether a restart would give the VMI the target's hardware; paused and finished VMIs are not restarted for it."""
    inactive = machine.paused or machine.vmi_phase in ("Succeeded", "Failed")
    return machine.vm.hardware == placed.target.blueprint.hardware_hash and is_outdated(machine) and not inactive
