"""Disks of a deployment: which revision each machine has or gets, and the volumes and claims that are missing.

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

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from kigi.domain.fingerprint import Fingerprint
from kigi.domain.names import claim_name
from kigi.domain.observed import Slot, VolumeRecord
from kigi.errors import KigiError
from kigi.planning.candidates import candidate_nodes
from kigi.planning.manifests import build_claim, build_volume
from kigi.planning.placed import Owner, PlacedTarget, Situation, disk_targets
from kigi.planning.placement import Choice, place
from kigi.planning.steps import ApplyObject, Step
from kigi.planning.targets import MachineTarget
from kigi.planning.view import DeploymentView
from kigi.planning.vm_manifest import machine_memory_bytes


def choose_disks(
    view: DeploymentView, owner: Owner, targets: Sequence[MachineTarget]
) -> tuple[tuple[PlacedTarget, ...], KigiError | None]:
    """The revision and node of each target: those that it has, or new ones.

    A target that no node can take is left out, and the error says why. O(machines x chain length).
    """
    observed = _ObservedDisks(view)
    candidates = candidate_nodes(view.nodes, view.spec.placement)
    kept: dict[Slot, VolumeRecord] = {}
    homes: dict[Slot, str] = {}
    for target in targets:
        current = observed.current(target.slot)
        if current is None:
            continue
        if observed.serves(current, target):
            kept[target.slot] = current
        elif current.node in candidates:
            homes[target.slot] = current.node
    error: KigiError | None = None
    choices = {slot: Choice(node, f"stays on {node}") for slot, node in homes.items()}
    try:
        choices.update(_place_new(view, targets, {**{slot: v.node for slot, v in kept.items()}, **homes}))
    except KigiError as exc:
        error = exc
    return tuple(_placed(view, owner, targets, observed, kept, choices)), error


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


class _ObservedDisks:
    """Volumes and claims of a deployment, by slot and by name."""

    def __init__(self, view: DeploymentView) -> None:
        self._view = view
        self._claims = {claim.meta.name: claim for claim in view.claims}
        self._extra = {(v.slot, v.revision, v.disk): v for v in view.volumes if v.disk}
        self._last: dict[Slot, int] = {}
        self._current: dict[Slot, VolumeRecord] = {}
        for volume in view.volumes:
            slot = volume.slot
            self._last[slot] = max(self._last.get(slot, 0), volume.revision)
            if volume.disk or volume.meta.deleting:
                continue
            known = self._current.get(slot)
            if known is None or known.revision < volume.revision:
                self._current[slot] = volume

    def current(self, slot: Slot) -> VolumeRecord | None:
        """Boot volume of the newest revision that is not terminating."""
        return self._current.get(slot)

    def next_revision(self, slot: Slot) -> int:
        """A number that no volume of the slot has or had, terminating ones included."""
        return self._last.get(slot, 0) + 1

    def fingerprint(self, slot: Slot) -> Fingerprint | None:
        """State that the current disk was created for; None: there is none, or it is unknown."""
        current = self._current.get(slot)
        return self._view.fingerprint_of(current) if current is not None else None

    def serves(self, current: VolumeRecord, target: MachineTarget) -> bool:
        """Whether the target can keep this revision."""
        return (
            current.node in self._view.nodes
            and self._usable(current)
            and not target.needs_new_disk(self._view.fingerprint_of(current))
            and all(self._can_complete(current, disk.name) for disk in target.blueprint.machine.disks)
        )

    def _usable(self, volume: VolumeRecord) -> bool:
        """False if the claim was deleted by hand: the volume is bound to its uid, so a recreated claim never binds."""
        claim = self._claims.get(volume.claim)
        return not claim.meta.deleting if claim is not None else not volume.claim_bound

    def _can_complete(self, root: VolumeRecord, disk: str) -> bool:
        """Whether an extra disk of that revision is usable, or was never created and still can be."""
        volume = self._extra.get((root.slot, root.revision, disk))
        if volume is None:
            return claim_name(self._view.name, *root.slot, root.revision, disk) not in self._claims
        return not volume.meta.deleting and self._usable(volume)


def _placed(
    view: DeploymentView,
    owner: Owner,
    targets: Sequence[MachineTarget],
    observed: _ObservedDisks,
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
        yield PlacedTarget(
            target=target,
            revision=revision,
            node=node,
            fingerprint=fingerprint,
            disks=disk_targets(owner, target, revision),
            is_cached=state is not None and target.blueprint.digests <= state.held,
            is_new=volume is None,
            why=choice.why if choice is not None else "",
            observed=machines.get(slot),
        )


def _place_new(
    view: DeploymentView, targets: Sequence[MachineTarget], placed: Mapping[Slot, str]
) -> dict[Slot, Choice]:
    """Nodes for the targets that are not ``placed``; the memory of those that are is taken from their nodes."""
    unplaced: dict[int, list[MachineTarget]] = defaultdict(list)
    nodes_of: dict[int, Counter[str]] = defaultdict(Counter)
    for target in targets:
        if target.slot not in placed:
            unplaced[target.instance].append(target)
    if not unplaced:
        return {}
    for slot, node in placed.items():
        nodes_of[slot[0]][node] += 1
    load = Counter(node for nodes in nodes_of.values() for node in nodes)
    home = {instance: max(sorted(nodes), key=nodes.__getitem__) for instance, nodes in nodes_of.items()}
    memory = _memory_by_slot(view, targets)
    used: Counter[str] = Counter()
    for slot, node in placed.items():
        used[node] += memory[slot]
    return place(unplaced, view.nodes, view.spec.placement, load=load, home=home, memory_of=memory, used=used)


def _memory_by_slot(view: DeploymentView, targets: Sequence[MachineTarget]) -> dict[Slot, int]:
    by_key: dict[tuple[str, str], int] = {}
    for target in targets:
        key = target.blueprint.key
        if key not in by_key:
            by_key[key] = machine_memory_bytes(target.blueprint.machine.template, view.instancetypes)
    return {target.slot: by_key[target.blueprint.key] for target in targets}
