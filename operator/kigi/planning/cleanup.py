"""Deletion: VMs and disks that an instance does not need any more, and everything when it is deleted itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kigi.domain import kinds
from kigi.domain.names import claim_name
from kigi.domain.observed import MachineRecord, PolicyRecord, VolumeRecord
from kigi.planning.placed import Situation
from kigi.planning.steps import DeleteObject, Plan, RemoveFinalizer, Step
from kigi.planning.view import InstanceObjects


def delete_machines(situation: Situation) -> Iterator[Step]:
    """Deletes VMs that no target asks for, and those of a former instance of the same name.

    Safe: only VMs that Kigi created. Their disks follow when no VM names them, see ``delete_disks``.
    """
    view = situation.view
    desired = {target.slot for target in situation.targets}
    for machine in view.machines:
        vm = machine.vm
        unwanted = vm.slot not in desired if view.owns(vm) else vm.owner_uid != ""
        if unwanted and not vm.meta.deleting:
            yield DeleteObject(kinds.MACHINE, vm.meta.name, view.namespace)


def delete_disks(situation: Situation) -> Iterator[Step]:
    """Deletes volumes and claims of revisions that have been replaced, and of slots that no target has.

    Safe: neither the VM's template nor its VMI names the revision. A machine that no node can take keeps its disk.
    Claims go before volumes, so that no claim is left that names a missing volume. The daemon deletes the overlay
    only after the volume's deletion is recorded (decision 2).
    """
    view = situation.view
    claims = {claim.meta.name: claim for claim in view.claims}
    unused = list(_unused_volumes(situation))
    for volume in unused:
        claim = claims.get(volume.claim)
        if claim is not None and not claim.meta.deleting:
            yield DeleteObject(kinds.CLAIM, claim.meta.name, view.namespace)
    for volume in unused:
        if not volume.meta.deleting:
            yield DeleteObject(kinds.VOLUME, volume.meta.name)


def _unused_volumes(situation: Situation) -> Iterator[VolumeRecord]:
    view = situation.view
    desired = {target.slot for target in situation.targets}
    revisions = {placed.slot: placed.revision for placed in situation.placed}
    machines = {machine.slot: machine for machine in view.machines}
    for volume in view.volumes:
        slot = volume.slot
        if slot in desired and volume.revision >= revisions.get(slot, 0):
            continue
        machine = machines.get(slot)
        boot_claim = claim_name(view.deployment, *slot, volume.revision)
        if machine is None or boot_claim not in (machine.vm.claim, machine.vmi_claim):
            yield volume


def plan_teardown(view: InstanceObjects) -> Plan:
    """Next steps of deleting everything that the instance created: the first kind that is left, in this order.

    VMs, then claims and volumes, then NetworkPolicies, then the finalizer. Safe: no disk is deleted under a VM, no VM
    runs without its policy, and the SystemInstance stays until nothing is left, overlays on nodes included.
    """
    if not view.has_finalizer:
        return Plan()
    steps, waiting_for = _first_kind_left(view, view.owns)
    if waiting_for:
        return Plan(steps=tuple(steps), waiting_for=waiting_for)
    return Plan(steps=(RemoveFinalizer(view.namespace, view.object_name, kinds.INSTANCE),))


def leftover_steps(view: InstanceObjects) -> list[Step]:
    """Deletions of what an instance has left that does not exist any more, in the same order.

    A VM or policy that Kigi did not create has no owner, and stays.
    """
    return _first_kind_left(view, lambda record: record.owner_uid != "")[0]


_Left = tuple[list[Step], str]
"""Deletions that are not requested yet, and what is waited for; empty: nothing of the kind is left."""
_IsOurs = Callable[[MachineRecord | PolicyRecord], bool]


def _first_kind_left(view: InstanceObjects, is_ours: _IsOurs) -> _Left:
    for kind_of in (_machines_left, _disks_left, _policies_left):
        steps, waiting_for = kind_of(view, is_ours)
        if waiting_for:
            return steps, waiting_for
    return [], ""


def _machines_left(view: InstanceObjects, is_ours: _IsOurs) -> _Left:
    owned = [machine.vm for machine in view.machines if is_ours(machine.vm)]
    steps: list[Step] = [
        DeleteObject(kinds.MACHINE, vm.meta.name, view.namespace) for vm in owned if not vm.meta.deleting
    ]
    return steps, f"the deletion of {len(owned)} VirtualMachines" if owned else ""


def _disks_left(view: InstanceObjects, _: _IsOurs) -> _Left:
    steps: list[Step] = [
        DeleteObject(kinds.CLAIM, claim.meta.name, view.namespace) for claim in view.claims if not claim.meta.deleting
    ]
    steps += [DeleteObject(kinds.VOLUME, v.meta.name) for v in view.volumes if not v.meta.deleting]
    left = f"the deletion of {len(view.claims)} claims and {len(view.volumes)} volumes from their nodes"
    return steps, left if view.claims or view.volumes else ""


def _policies_left(view: InstanceObjects, is_ours: _IsOurs) -> _Left:
    owned = [policy for policy in view.policies if is_ours(policy)]
    steps: list[Step] = [
        DeleteObject(kinds.POLICY, policy.meta.name, view.namespace) for policy in owned if not policy.meta.deleting
    ]
    return steps, f"the deletion of {len(owned)} NetworkPolicies" if owned else ""
