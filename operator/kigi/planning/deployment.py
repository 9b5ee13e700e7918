"""What to do next for one SystemDeployment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from kigi.domain.fingerprint import Fingerprint
from kigi.domain.names import claim_name
from kigi.domain.observed import ClaimRecord, Slot, VolumeRecord
from kigi.errors import HookPending, HookUnavailable, KigiError, NameTaken, StateBesideDisk
from kigi.planning.isolation import KIND as POLICY
from kigi.planning.isolation import is_isolated, isolation_steps
from kigi.planning.manifests import (
    Owner,
    build_claim,
    build_machine,
    build_volume,
    hardware_hash,
    hook_annotation,
    machine_memory_bytes,
    template_hash,
)
from kigi.planning.placement import Choice, candidate_nodes, place
from kigi.planning.steps import (
    AddFinalizer,
    ApplyObject,
    DeleteObject,
    Plan,
    RemoveFinalizer,
    RestartMachine,
    Step,
)
from kigi.planning.targets import MachineTarget, machine_targets
from kigi.planning.view import DeploymentView, MachineState

FORGOTTEN_AFTER = timedelta(seconds=30)
"""virt-handler looks for sockets of launchers that are gone every 11 s, and forgets those of which no instance is."""


@dataclass(frozen=True, slots=True)
class Target:
    """One wished VM and the disk that it shall have."""

    wish: MachineTarget
    revision: int
    node: str
    why: str
    fingerprint: Fingerprint
    volume: VolumeRecord | None
    """The PersistentVolume; None: it is made by this plan."""
    cached: bool
    """The node holds the whole chain."""
    waits_for: tuple[str, ...] = ()
    """Machines of its instance that are not ready, and that it starts after."""


@dataclass(frozen=True, slots=True)
class DeploymentPlan(Plan):
    """Steps, and what they were derived from, for the status."""

    targets: tuple[Target, ...] = ()
    error: KigiError | None = None
    """Why the wish cannot be (wholly) met now; the steps are what is safe in spite of it."""
    machines: Mapping[Slot, MachineState] = field(default_factory=dict)


def plan_deployment(view: DeploymentView, *, hook_image: str = "") -> DeploymentPlan:
    """Next steps that bring one system of VMs towards its spec.

    The order is the safety argument. The finalizer precedes everything that must be cleaned up. A volume, which also
    makes placement durable, precedes its claim, both precede the wish for their layers (derived from volumes), and a
    VM is pointed at a disk only when the node holds the whole chain, so that a running VM is disturbed last. A VM is
    restarted only after its template names the new disk, or the new hardware. A disk is deleted only when neither the
    VM's template nor a VirtualMachineInstance names it. A running VM is never moved by a re-plan.
    No steps means converged, or waiting for what ``waiting_for`` names. O(machines x chain length), no I/O.
    """
    if view.deleting:
        return _plan_teardown(view)
    machines = {machine.slot: machine for machine in view.machines}
    try:
        wishes = machine_targets(view.spec, view.systems)
        targets, error = _choose_disks(view, wishes)
    except KigiError as exc:
        return DeploymentPlan(error=exc, machines=machines)
    if view.kubevirt.hook is None and error is None:
        kind = HookPending if view.kubevirt.pending else HookUnavailable
        error = kind(view.kubevirt.why_not)
    steps: list[Step] = [] if view.has_finalizer else [AddFinalizer(view.namespace, view.name)]
    owner = Owner(view.namespace, view.name, view.uid)
    targets = _in_order(targets, machines, owner)
    hardware = _hardware_of(targets)
    steps.extend(isolation_steps(view, owner, {target.wish.instance for target in targets}))
    steps.extend(_make_disks(view, owner, targets))
    try:
        steps.extend(_make_machines(view, owner, targets, machines, hardware, hook_image))
    except KigiError as exc:
        error = error or exc
    steps.extend(_restart_machines(view, owner, targets, machines, hardware))
    steps.extend(_drop_undesired(view, wishes, targets, machines))
    error = error or _persistent_state(view, targets, machines)
    return DeploymentPlan(
        steps=tuple(steps), waiting_for=_waiting_for(targets, machines), targets=targets, error=error, machines=machines
    )


def _choose_disks(view: DeploymentView, wishes: Sequence[MachineTarget]) -> tuple[tuple[Target, ...], KigiError | None]:
    """The disk of each wished machine: the one it has, or a new revision on a node."""
    volumes = _by_slot(view.volumes)
    claims = {claim.meta.name: claim for claim in view.claims}
    more = {(v.slot, v.revision, v.disk): v for v in view.volumes if v.disk}
    kept: dict[Slot, VolumeRecord] = {}
    new: dict[Slot, tuple[MachineTarget, int, Fingerprint]] = {}
    candidates = candidate_nodes(view.nodes, view.spec.placement)
    homes: dict[Slot, str] = {}
    for wish in wishes:
        revisions = volumes.get(wish.slot, [])
        current = next((v for v in reversed(revisions) if not v.meta.deleting and not v.disk), None)
        before = view.fingerprint_of(current) if current else None
        if (
            current
            and current.node in view.nodes
            and _usable(current, claims)
            and not wish.needs_new_disk(before)
            and all(_can_complete(view, current, disk.name, more, claims) for disk in wish.disks)
        ):
            kept[wish.slot] = current
            continue
        if current and current.node in candidates:
            homes[wish.slot] = current.node
        new[wish.slot] = (wish, revisions[-1].revision + 1 if revisions else 1, wish.fingerprint(before))
    error: KigiError | None = None
    choices: dict[Slot, Choice] = {slot: Choice(node, f"stays on {node}") for slot, node in homes.items()}
    try:
        settled = {**{slot: volume.node for slot, volume in kept.items()}, **homes}
        choices.update(_place_new(view, wishes, settled))
    except KigiError as exc:
        error = exc
    targets: list[Target] = []
    for wish in wishes:
        if wish.slot in kept:
            volume = kept[wish.slot]
            fingerprint = view.fingerprint_of(volume) or wish.fingerprint()
            targets.append(
                Target(wish, volume.revision, volume.node, "", fingerprint, volume, _is_cached(view, volume.node, wish))
            )
        elif wish.slot in choices:
            _, revision, fingerprint = new[wish.slot]
            node = choices[wish.slot].node
            targets.append(
                Target(wish, revision, node, choices[wish.slot].why, fingerprint, None, _is_cached(view, node, wish))
            )
    return tuple(targets), error


def _usable(volume: VolumeRecord, claims: Mapping[str, ClaimRecord]) -> bool:
    """A volume whose claim was deleted by hand can never be bound again: Kubernetes remembers the claim's uid."""
    claim = claims.get(_claim_of(volume))
    return not claim.meta.deleting if claim is not None else not volume.claim_bound


def _can_complete(
    view: DeploymentView,
    root: VolumeRecord,
    disk: str,
    more: Mapping[tuple[Slot, int, str], VolumeRecord],
    claims: Mapping[str, ClaimRecord],
) -> bool:
    """Whether a further disk of that revision is there and usable, or was never made: then it still can be."""
    volume = more.get((root.slot, root.revision, disk))
    if volume is None:
        return claim_name(view.name, *root.slot, root.revision, disk) not in claims
    return not volume.meta.deleting and _usable(volume, claims)


def _claim_of(volume: VolumeRecord) -> str:
    return claim_name(volume.deployment[1], *volume.slot, volume.revision, volume.disk)


def _place_new(
    view: DeploymentView, wishes: Sequence[MachineTarget], settled: Mapping[Slot, str]
) -> dict[Slot, Choice]:
    """Nodes of the machines that are not ``settled``; those that are take their room on the nodes that they have."""
    unplaced: dict[int, list[MachineTarget]] = defaultdict(list)
    nodes_of: dict[int, Counter[str]] = defaultdict(Counter)
    for wish in wishes:
        if wish.slot not in settled:
            unplaced[wish.instance].append(wish)
    if not unplaced:
        return {}
    for slot, node in settled.items():
        nodes_of[slot[0]][node] += 1
    load = Counter(node for nodes in nodes_of.values() for node in nodes)
    home = {instance: max(sorted(nodes), key=nodes.__getitem__) for instance, nodes in nodes_of.items()}
    memory = {wish.slot: machine_memory_bytes(wish.template, view.instancetypes) for wish in wishes}
    used: Counter[str] = Counter()
    for slot, node in settled.items():
        used[node] += memory[slot]
    return place(unplaced, view.nodes, view.spec.placement, load=load, home=home, memory_of=memory, used=used)


def _is_cached(view: DeploymentView, node: str, wish: MachineTarget) -> bool:
    state = view.nodes.get(node)
    return state is not None and all(layer.digest in state.held for chain in wish.chains for layer in chain)


def _make_disks(view: DeploymentView, owner: Owner, targets: Sequence[Target]) -> Iterator[Step]:
    claims = {claim.meta.name for claim in view.claims}
    present = {(v.slot, v.revision, v.disk) for v in view.volumes if v.disk}
    for target in targets:
        wish, revision = target.wish, target.revision
        if target.volume is None:
            # The disk that it boots from comes first: its volume is the decision, and the others complete it.
            yield ApplyObject(build_volume(owner, wish, revision, target.node, target.fingerprint))
        for disk in wish.disks:
            if (wish.slot, revision, disk.name) not in present:
                yield ApplyObject(build_volume(owner, wish, revision, target.node, target.fingerprint, disk))
    for target in targets:
        if claim_of(target, owner) not in claims:
            yield ApplyObject(build_claim(owner, target.wish, target.revision))
        for disk in target.wish.disks:
            if claim_of(target, owner, disk.name) not in claims:
                yield ApplyObject(build_claim(owner, target.wish, target.revision, disk))


def _hardware_of(targets: Sequence[Target]) -> Mapping[Slot, str]:
    """``hardware_hash`` of each wished VM; instances of one state share their templates, and each is hashed once."""
    hashes: dict[tuple[int, int], str] = {}
    found: dict[Slot, str] = {}
    for target in targets:
        kind = (id(target.wish.template), id(target.wish.disks))
        if kind not in hashes:
            hashes[kind] = hardware_hash(target.wish)
        found[target.wish.slot] = hashes[kind]
    return found


def _make_machines(
    view: DeploymentView,
    owner: Owner,
    targets: Sequence[Target],
    machines: Mapping[Slot, MachineState],
    hardware: Mapping[Slot, str],
    hook_image: str,
) -> Iterator[Step]:
    """VMs that are absent, point at another disk, or differ; never without the hook that makes their disks qcow2."""
    hook = view.kubevirt.hook
    if hook is None:
        return
    sidecars = hook_annotation(hook_image) if hook == "Sidecar" else None
    hashes: dict[tuple[int, int], str] = {}
    for target in targets:
        if not target.cached or not is_isolated(view, target.wish.instance):
            continue
        machine = machines.get(target.wish.slot)
        kind = (id(target.wish.template), id(target.wish.disks))
        if kind not in hashes:
            hashes[kind] = template_hash(target.wish, view.spec.placement, hook, hook_image)
        if machine is not None and not view.owns(machine.vm):
            raise NameTaken(
                f"VirtualMachine {view.namespace}/{machine.vm.meta.name} exists and is not of this deployment; "
                "rename the deployment or delete the VM"
            )
        wanted = _WishedTemplate(hashes[kind], hardware[target.wish.slot], sidecars)
        until = halted_until(machine, view.now)
        running = shall_run(target, machine) and until is None
        if machine is not None and (
            machine.vm.meta.deleting or _is_as_desired(target, machine, owner, wanted, running)
        ):
            continue
        made = build_machine(
            owner, target.wish, target.revision, view.spec.placement, hook, hook_image, running=running, until=until
        )
        yield ApplyObject(made)


def _in_order(targets: Sequence[Target], machines: Mapping[Slot, MachineState], owner: Owner) -> tuple[Target, ...]:
    """Targets with what each waits for: machines before it that shall run and are not ready on their disk.

    A machine that runs on its disk waits for nobody: it is not stopped because another one before it went down.
    """
    ready = {
        target.wish.slot: not target.wish.running or _runs_on(machines.get(target.wish.slot), claim_of(target, owner))
        for target in targets
    }

    def waits_for(target: Target) -> tuple[str, ...]:
        machine = machines.get(target.wish.slot)
        if machine is not None and machine.vmi_claim == claim_of(target, owner) == machine.vm.claim:
            return ()
        return tuple(name for name in target.wish.after if not ready.get((target.wish.instance, name), False))

    return tuple(replace(target, waits_for=waits_for(target)) if target.wish.after else target for target in targets)


def _runs_on(machine: MachineState | None, claim: str) -> bool:
    return machine is not None and is_running(machine) and machine.vm.claim == claim


def shall_run(target: Target, machine: MachineState | None) -> bool:
    """Now: it is wished to, everything that comes before it is there, and the end that it was told has come.

    Under RerunOnFailure KubeVirt starts a VM only when it sees the strategy change while there is no instance; one
    that is turned on again while its old instance is still ending would stay off for good.
    """
    ending = machine is not None and not machine.vm.running and machine.vmi_deleting
    return target.wish.running and not target.waits_for and not ending


def halted_until(machine: MachineState | None, now: datetime) -> datetime | None:
    """When a VM may start again that is, or is to be, off for KubeVirt to forget its last run; None: at once.

    The time is kept in the VM's annotation, so that an operator after this one waits for it as well.
    """
    if machine is None:
        return None
    until = machine.vm.halted_until
    if until is not None and until - now > 2 * FORGOTTEN_AFTER:
        until = None  # written by a clock that was set back since: it would keep the VM off for as long
    if machine.blocked_by_ghost_record:
        return until if until and not machine.vm.running else now + FORGOTTEN_AFTER
    return until if until and now < until else None


@dataclass(frozen=True, slots=True)
class _WishedTemplate:
    """What a VM's template shall say of itself."""

    hash: str
    hardware: str
    sidecars: str | None
    """None: whatever it says."""


def _is_as_desired(target: Target, machine: MachineState, owner: Owner, wanted: _WishedTemplate, running: bool) -> bool:
    return (
        machine.vm.claim == claim_of(target, owner)
        and machine.vm.running == running
        and machine.vm.template_hash == wanted.hash
        and machine.vm.hardware == wanted.hardware
        and wanted.sidecars in (None, machine.vm.sidecars)
    )


def claim_of(target: Target, owner: Owner, disk: str = "") -> str:
    """Name of the claim of the disk that the VM shall have: the one that it boots from, or a further one."""
    return claim_name(owner.name, target.wish.instance, target.wish.machine, target.revision, disk)


def claims_of(target: Target, owner: Owner) -> Iterator[str]:
    """Names of the claims of all disks that the VM shall have."""
    yield claim_of(target, owner)
    for disk in target.wish.disks:
        yield claim_of(target, owner, disk.name)


def _restart_machines(
    view: DeploymentView,
    owner: Owner,
    targets: Sequence[Target],
    machines: Mapping[Slot, MachineState],
    hardware: Mapping[Slot, str],
) -> Iterator[Step]:
    """Running VMs whose template names their new disk, or their new hardware, already.

    A disk that is replaced is thrown away, so no grace is owed; a disk that is kept is to be left in order.
    """
    for target in targets:
        machine = machines.get(target.wish.slot)
        if machine is None or machine.vmi is None or machine.vmi_deleting or not view.owns(machine.vm):
            continue
        wanted = claim_of(target, owner)
        if machine.vm.claim != wanted:
            continue
        vmi = machine.vmi.meta
        if machine.vmi_claim != wanted:
            yield RestartMachine(owner.namespace, vmi.name, vmi.uid)
        elif target.wish.running and _can_take_hardware(machine, hardware[target.wish.slot]):
            yield RestartMachine(owner.namespace, vmi.name, vmi.uid, gracefully=True)


def _can_take_hardware(machine: MachineState, wanted: str) -> bool:
    """A restart would give it ``wanted``, which it has not. One that stands still or has ended is not waked for it."""
    standing = machine.paused or machine.vmi_phase in ("Succeeded", "Failed")
    return machine.vm.hardware == wanted and is_outdated(machine) and not standing


def _persistent_state(
    view: DeploymentView, targets: Sequence[Target], machines: Mapping[Slot, MachineState]
) -> StateBesideDisk | None:
    """A VM that runs with what no template may ask for, by its preference."""
    for target in targets:
        machine = machines.get(target.wish.slot)
        if machine is None or not view.owns(machine.vm) or is_outdated(machine):
            continue
        if machine.persistent_state:
            return StateBesideDisk(
                f"SystemNode {target.wish.system}: machine {target.wish.machine}: its preference gives it a persistent "
                f"domain.{machine.persistent_state}, whose state no reset reaches; say template.patch.spec.domain."
                f"{machine.persistent_state}.persistent: false"
            )
    return None


def _drop_undesired(
    view: DeploymentView,
    wishes: Sequence[MachineTarget],
    targets: Sequence[Target],
    machines: Mapping[Slot, MachineState],
) -> Iterator[Step]:
    """VMs that nobody wishes any more, and disks that no VM names any more; claims before volumes.

    A wished machine without a target (no node can take it) keeps what it has.
    """
    wished = {wish.slot for wish in wishes}
    revisions = {target.wish.slot: target.revision for target in targets}
    for machine in view.machines:
        vm = machine.vm
        if vm.slot not in wished and view.owns(vm) and not vm.meta.deleting:
            yield DeleteObject("VirtualMachine", vm.meta.name, view.namespace)
    claims = {claim.meta.name: claim for claim in view.claims}
    dead: list[VolumeRecord] = []
    for volume in view.volumes:
        slot = volume.slot
        if slot in wished and volume.revision >= revisions.get(slot, 0):
            continue
        present = machines.get(slot)
        root = claim_name(view.name, *slot, volume.revision)
        if present is None or root not in (present.vm.claim, present.vmi_claim):
            dead.append(volume)
    for volume in dead:
        claim = claims.get(_claim_of(volume))
        if claim is not None and not claim.meta.deleting:
            yield DeleteObject("PersistentVolumeClaim", claim.meta.name, view.namespace)
    yield from (DeleteObject("PersistentVolume", volume.meta.name) for volume in dead if not volume.meta.deleting)


def _plan_teardown(view: DeploymentView) -> DeploymentPlan:
    """VMs first; when they are gone, claims and volumes; then what isolated them; then the finalizer."""
    if not view.has_finalizer:
        return DeploymentPlan()
    owned = [machine.vm for machine in view.machines if view.owns(machine.vm)]
    if owned:
        steps = tuple(DeleteObject("VirtualMachine", m.meta.name, view.namespace) for m in owned if not m.meta.deleting)
        return DeploymentPlan(steps=steps, waiting_for=f"{len(owned)} VirtualMachines to be gone")
    if view.claims or view.volumes:
        live = [claim.meta.name for claim in view.claims if not claim.meta.deleting]
        claims = (DeleteObject("PersistentVolumeClaim", name, view.namespace) for name in live)
        volumes = (DeleteObject("PersistentVolume", v.meta.name) for v in view.volumes if not v.meta.deleting)
        left = f"{len(view.claims)} claims and {len(view.volumes)} volumes to be gone from their nodes"
        return DeploymentPlan(steps=(*claims, *volumes), waiting_for=left)
    policies = [policy for policy in view.policies if view.owns(policy)]
    if policies:
        gone = (DeleteObject(POLICY, p.meta.name, view.namespace) for p in policies if not p.meta.deleting)
        return DeploymentPlan(steps=tuple(gone), waiting_for=f"{len(policies)} NetworkPolicies to be gone")
    return DeploymentPlan(steps=(RemoveFinalizer(view.namespace, view.name),))


def _waiting_for(targets: Sequence[Target], machines: Mapping[Slot, MachineState]) -> str:
    cold = sum(1 for target in targets if not target.cached)
    if cold:
        return f"layers of {cold} machines"
    down = [t for t in targets if t.wish.running and not is_running(machines.get(t.wish.slot))]
    return f"{len(down)} machines to run" if down else ""


def is_running(machine: MachineState | None) -> bool:
    """Its VirtualMachineInstance runs on the disk and the hardware that the VM names, and is ready."""
    if machine is None or machine.vmi is None:
        return False
    vmi = machine.vmi
    serving = vmi.phase == "Running" and vmi.ready and not vmi.paused and not vmi.meta.deleting
    return serving and vmi.claim == machine.vm.claim and not is_outdated(machine)


def is_outdated(machine: MachineState) -> bool:
    """Its VirtualMachineInstance was started with other hardware than the VM's template names now.

    Not so where one of them does not say: an operator that did not write it down is no reason to restart a VM.
    """
    if machine.vmi is None or not (machine.vm.hardware and machine.vmi.hardware):
        return False
    return machine.vmi.hardware != machine.vm.hardware


def _by_slot(volumes: Sequence[VolumeRecord]) -> dict[Slot, list[VolumeRecord]]:
    """Volumes of each place, by revision, those being deleted included: their numbers are not used again."""
    slots: dict[Slot, list[VolumeRecord]] = defaultdict(list)
    for volume in sorted(volumes, key=lambda v: v.revision):
        slots[volume.slot].append(volume)
    return slots
