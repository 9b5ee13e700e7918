"""Disks of an instance: which revision each machine has or gets, and the volumes and claims that are missing.

Every reset, switch or loss of a node gives a machine a new *revision* of all its disks; a disk never changes.

    revision 1    PV r1 + PVC r1 <-- template <-- VM <-- VMI     in use
    reset         PV r2 + PVC r2                                 stages create_volumes, create_claims
                    ... the node fetches the chain of r2 ...     VM and VMI still run on r1
                  PV r2 + PVC r2 <-- template <-- VM             stage apply_machines
                                           r1 <--------- VMI     stage restart_machines deletes the VMI
                  PV r2 + PVC r2 <-- template <-- VM <-- VMI     KubeVirt starts the next VMI
                  PV r1, PVC r1 deleted                          stage delete_disks

The volume of the boot disk is the durable decision: it records revision, node and fingerprint (decision 1). Claims and
extra disks complete it. The newest volume that is not terminating counts; all volumes keep their numbers occupied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kigi.domain.names import volume_handle
from kigi.domain.observed import Slot, VolumeRecord
from kigi.errors import KigiError
from kigi.planning.candidates import ARCHITECTURE_LABEL, NoNode, candidate_nodes, is_candidate, runs
from kigi.planning.disk_quota import within_quota
from kigi.planning.manifests import build_claim, build_volume
from kigi.planning.observed_disks import ObservedDisks
from kigi.planning.placed import Owner, PlacedTarget, Situation, disk_targets
from kigi.planning.placement import Choice, place
from kigi.planning.steps import ApplyObject, Step
from kigi.planning.targets import MachineTarget
from kigi.planning.view import InstanceView
from kigi.planning.vm_manifest import machine_memory_bytes


def choose_disks(
    view: InstanceView, owner: Owner, observed: ObservedDisks, targets: Sequence[MachineTarget]
) -> tuple[tuple[PlacedTarget, ...], KigiError | None]:
    """The revision and node of each target: those that it has, or new ones.

    A target that no node can take, or that a SystemQuota does not allow, is left out, and the error says why.
    O(machines x chain length).
    """
    kept: dict[Slot, VolumeRecord] = {}
    homes: dict[Slot, str] = {}
    for target in targets:
        current = observed.current(target.slot)
        if current is None:
            continue
        if observed.serves(current, target):
            kept[target.slot] = current
        elif is_candidate(node := view.nodes.get(current.node), view.spec.placement) and runs(
            target.architecture, node
        ):
            homes[target.slot] = current.node
    choices = {slot: Choice(node, f"stays on {node}") for slot, node in homes.items()}
    placed = {**{slot: v.node for slot, v in kept.items()}, **homes}
    unplaced = [target for target in targets if target.slot not in placed]
    alien = _without_node(view, unplaced)
    error: KigiError | None = _no_node(next(iter(alien.values()))) if alien else None
    try:
        choices.update(_place_new(view, [t for t in targets if t.slot not in alien], placed))
    except KigiError as exc:
        error = exc
    allowed, refused = within_quota(view.allowance, view.deployment, targets, choices)
    return tuple(_placed(view, owner, targets, observed, kept, allowed)), error or refused


def _without_node(view: InstanceView, unplaced: Iterable[MachineTarget]) -> dict[Slot, MachineTarget]:
    """Machines whose guest no candidate can run; none without candidates, whose lack is another error.

    Most images are for any architecture, and their machines need no look at the nodes here.
    """
    particular = [target for target in unplaced if target.architecture is not None]
    candidates = candidate_nodes(view.nodes, view.spec.placement) if particular else ()
    return {
        target.slot: target
        for target in particular
        if candidates and not any(runs(target.architecture, state) for state in candidates)
    }


def _no_node(target: MachineTarget) -> NoNode:
    return NoNode(
        f"no node can take machine {target.machine} of instance {target.instance}: its image is for "
        f"{target.architecture}, and no node that can take disks has the label "
        f"{ARCHITECTURE_LABEL}={target.architecture}; add such a node, or use another image"
    )


def create_volumes(situation: Situation) -> Iterator[Step]:
    """Creates the PersistentVolumes that are missing.

    Safe: nothing uses a new volume yet. A volume precedes its claim and every use of its disk, because it makes
    revision and node durable. The boot disk's volume comes first, so that extra disks follow the decision in it.
    """
    present = {volume.meta.name for volume in situation.view.volumes}
    for placed in situation.placed:
        for disk in placed.disks:
            if disk.volume not in present:
                yield ApplyObject(build_volume(situation.owner, placed, disk))


def create_claims(situation: Situation) -> Iterator[Step]:
    """Creates the PersistentVolumeClaims that are missing.

    Safe: a claim names its volume and the volume names its claim, so that no other pair can be bound.
    """
    present = {claim.meta.name for claim in situation.view.claims}
    for placed in situation.placed:
        for disk in placed.disks:
            if disk.claim not in present:
                yield ApplyObject(build_claim(situation.owner, placed, disk))


def _placed(
    view: InstanceView,
    owner: Owner,
    targets: Sequence[MachineTarget],
    observed: ObservedDisks,
    kept: Mapping[Slot, VolumeRecord],
    choices: Mapping[Slot, Choice],
) -> Iterator[PlacedTarget]:
    machines = {machine.slot: machine for machine in view.machines}
    for target in targets:
        slot = target.slot
        before = observed.fingerprint(slot)
        volume, choice = kept.get(slot), choices.get(slot)
        if volume is not None:
            revision, node, fingerprint = volume.revision, volume.node, before or target.fingerprint()
        elif choice is not None:
            revision, node, fingerprint = observed.next_revision(slot), choice.node, target.fingerprint(before)
        else:
            continue
        state = view.nodes.get(node)
        disks = disk_targets(owner, target, revision)
        filling = state.filling if state is not None else frozenset()
        yield PlacedTarget(
            target=target,
            revision=revision,
            node=node,
            fingerprint=fingerprint,
            disks=disks,
            fills_disk=bool(filling) and any(volume_handle(disk.volume, owner.uid) in filling for disk in disks),
            is_cached=state is not None and target.blueprint.layers.keys() <= state.held,
            is_new=volume is None,
            why=choice.why if choice is not None else "",
            observed=machines.get(slot),
        )


def _place_new(view: InstanceView, targets: Sequence[MachineTarget], placed: Mapping[Slot, str]) -> dict[Slot, Choice]:
    """Nodes for the targets that are not ``placed``; the memory of those that are is taken from their nodes."""
    unplaced = [target for target in targets if target.slot not in placed]
    if not unplaced:
        return {}
    nodes = Counter(placed.values())
    home = max(sorted(nodes), key=nodes.__getitem__) if nodes else None
    memory = _memory_by_slot(view, targets)
    used: Counter[str] = Counter()
    for slot, node in placed.items():
        used[node] += memory[slot]
    return place(unplaced, view.nodes, view.spec.placement, memory_of=memory, load=view.load, home=home, used=used)


def _memory_by_slot(view: InstanceView, targets: Sequence[MachineTarget]) -> dict[Slot, int]:
    return {
        target.slot: machine_memory_bytes(target.blueprint.machine.hardware, view.instancetypes) for target in targets
    }
