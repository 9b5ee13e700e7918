"""Machine targets: every VM that an instance should have, with its own settings applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.instance import MAX_INSTANCE_MACHINES, MachineSettings, SystemInstanceSpec
from kigi.api.placement import Placement
from kigi.domain.chain_attribute import chain_text
from kigi.domain.fingerprint import Fingerprint, remember, token_mark
from kigi.domain.kubevirt import HookKind
from kigi.domain.layers import Chain, Digest, Layer, unique_layers
from kigi.domain.names import machine_name
from kigi.domain.observed import Slot
from kigi.domain.systems import ResolvedMachine, ResolvedSystem
from kigi.errors import KigiError, MachineUnknown, TooManyMachines
from kigi.planning.expiration import has_expired
from kigi.planning.hashes import content_hash, hardware_hash, template_hash
from kigi.planning.view import InstanceView

MAX_BLUEPRINTS = 8192
_BLUEPRINTS: dict[tuple[str, int, int, HookKind | None, str], tuple[Blueprint, Placement]] = {}
"""Blueprints by the identities of their immutable sources, which an entry keeps alive: no identity is used twice."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One machine of one state, with its hashes."""

    system: str
    machine: ResolvedMachine
    layers: Mapping[Digest, Layer]
    """Every layer of every disk."""
    chain_texts: tuple[str, ...]
    """The volume attribute of each chain, the boot disk's first."""
    hardware_hash: str
    template_hash: str
    """Depends on the deployment's tolerations and on the hook, too."""
    content: str
    """Hash of what an edit of the state changes."""

    @classmethod
    def of(
        cls, system: str, machine: ResolvedMachine, placement: Placement, hook: HookKind | None, hook_image: str
    ) -> Blueprint:
        """Blueprint of a machine of a state for one placement and hook."""
        return cls(
            system,
            machine,
            unique_layers(machine.chains),
            tuple(map(chain_text, machine.chains)),
            hardware_hash(machine),
            template_hash(machine, placement, hook, hook_image),
            content_hash(machine),
        )

    @property
    def key(self) -> tuple[str, str, str]:
        """(state, machine, content): equal for equal blueprints of one plan."""
        return (self.system, self.machine.name, self.content)

    def disk_digests(self) -> tuple[tuple[str, str], ...]:
        """(name, digest of the topmost layer) of each extra disk."""
        return tuple((disk.name, str(disk.chain[-1].digest)) for disk in self.machine.disks)


@dataclass(frozen=True, slots=True)
class MachineTarget:
    """One VM as it should be, before its disks have a revision and a node."""

    instance: str
    blueprint: Blueprint
    vm_name: str
    running: bool
    wanted: tuple[str, ...] = ()
    """Marks of the reset tokens that its disk must have, the most specific one last."""
    keep_unchanged: bool = False
    """A switch keeps the disk if the image stays the same."""
    edits_wait: bool = False
    """An edit of the state reaches the machine with its next disk only."""
    is_older: bool = False
    """The blueprint is that of the machine's disk and VM, as an edit of its state waits; see ``planning.edits``."""

    @property
    def is_removed(self) -> bool:
        """The state does not have the machine any more; it goes with its next reset."""
        return not self.blueprint.machine.image

    @property
    def machine(self) -> str:
        """Name of the machine in its state."""
        return self.blueprint.machine.name

    @property
    def system(self) -> str:
        """Name of the state."""
        return self.blueprint.system

    @property
    def architecture(self) -> str | None:
        """Architecture that its node must have; None: any."""
        return self.blueprint.machine.guest.architecture

    @property
    def slot(self) -> Slot:
        """Slot of the VM in its deployment."""
        return (self.instance, self.blueprint.machine.name)

    @property
    def chain(self) -> Chain:
        """Chain of the boot disk."""
        return self.blueprint.machine.chain

    @property
    def chains(self) -> tuple[Chain, ...]:
        """Chains of all disks, the boot disk first."""
        return self.blueprint.machine.chains

    def fingerprint(self, before: Fingerprint | None = None) -> Fingerprint:
        """State that a new overlay is created for; it remembers the tokens of ``before``, its predecessor."""
        seen = remember(before.seen if before else (), self.wanted)
        blueprint = self.blueprint
        return Fingerprint(self.chain[-1].digest, self.system, seen, blueprint.disk_digests(), blueprint.content)

    def needs_new_disk(self, before: Fingerprint | None) -> bool:
        """Whether an overlay with the fingerprint ``before`` must be replaced.

        True for another image, a switch under ReplaceAll, or a reset token that neither the disk nor a predecessor had:
        a GitOps controller that restores an older text resets nothing, and neither does the removal of a token.
        """
        if before is None or not self._same_images(before) or not self._has_seen_all(before):
            return True
        return not self.keep_unchanged and before.system != self.system

    def awaits_reset(self, before: Fingerprint | None) -> bool:
        """Whether the state was edited since the overlay with this fingerprint took its content, and the edit waits.

        A fingerprint without a content counts as current if its images are.
        """
        if not self.edits_wait or before is None or before.system != self.system or not self._has_seen_all(before):
            return False
        return before.content != self.blueprint.content if before.content else not self._same_images(before)

    def _same_images(self, before: Fingerprint) -> bool:
        return before.image == self.chain[-1].digest and before.disks == self.blueprint.disk_digests()

    def _has_seen_all(self, before: Fingerprint) -> bool:
        return set(self.wanted) <= set(before.seen)


@dataclass(frozen=True, slots=True)
class InstanceTarget:
    """What the specs ask of every machine of the instance."""

    name: str
    system: str
    running: bool
    wanted: tuple[str, ...]
    """Marks of the reset tokens."""


def instance_target(view: InstanceView) -> InstanceTarget:
    """What the specs ask of every machine of the instance, without the settings of single machines."""
    return InstanceTarget(view.name, view.system_name, is_on(view), _wanted(view.spec))


def _wanted(spec: SystemDeploymentSpec) -> tuple[str, ...]:
    return () if spec.reset_token is None else (token_mark(spec.reset_token),)


def machine_targets(view: InstanceView, *, hook_image: str = "") -> tuple[MachineTarget, ...]:
    """Every VM of the instance, in the order of its state; the most specific setting wins.

    Raises the error of a state that cannot be resolved; MachineUnknown for settings of a machine that the state does
    not have; or TooManyMachines. O(machines), and one hash per machine.
    """
    state = _resolved(view, view.system_name)
    if len(state.machines) > MAX_INSTANCE_MACHINES:
        raise TooManyMachines(
            f"SystemNode {state.name} has {len(state.machines)} machines, and an instance at most "
            f"{MAX_INSTANCE_MACHINES}: divide the state into two"
        )
    own = {machine.name: machine for machine in view.settings.machines}
    _check_known(own, state, _running_machines(view))
    return tuple(_target(view, own.get(machine.name), state, machine, hook_image) for machine in state.machines)


def named_systems(spec: SystemDeploymentSpec) -> frozenset[str]:
    """Every state that the spec of a deployment names: its own, and prefetched ones."""
    return frozenset((spec.system_ref.tree_name, *(ref.tree_name for ref in spec.prefetch_refs)))


def systems_of_instance(settings: SystemInstanceSpec) -> frozenset[str]:
    """Every state that the spec of an instance names: its own, and those of single machines."""
    refs = (settings.system_ref, *(machine.system_ref for machine in settings.machines))
    return frozenset(ref.tree_name for ref in refs if ref is not None)


def is_on(view: InstanceView, machine: MachineSettings | None = None) -> bool:
    """Whether VMs should run, by the most specific power state, until the deployment expires; without one: yes."""
    if has_expired(view.spec, view.now):
        return False
    own = machine.power_state if machine is not None else None
    levels = (own, view.settings.power_state, view.spec.power_state)
    return next((level for level in levels if level is not None), "On") != "Off"


def edits_wait(spec: SystemDeploymentSpec) -> bool:
    """Whether an edit of a state waits for a reset."""
    return spec.update_strategy is None or spec.update_strategy.on_edit != "Immediate"


def _keeps_unchanged(spec: SystemDeploymentSpec) -> bool:
    return spec.update_strategy is not None and spec.update_strategy.on_switch == "ReplaceChanged"


def _shared_blueprint(
    system: str, machine: ResolvedMachine, placement: Placement, hook: HookKind | None, hook_image: str
) -> Blueprint:
    """The blueprint; all instances of a deployment share it, as their states and placements are the same objects."""
    key = (system, id(machine), id(placement), hook, hook_image)
    found = _BLUEPRINTS.get(key)
    if found is None:
        if len(_BLUEPRINTS) >= MAX_BLUEPRINTS:
            _BLUEPRINTS.clear()
        found = _BLUEPRINTS[key] = Blueprint.of(system, machine, placement, hook, hook_image), placement
    return found[0]


def _target(
    view: InstanceView, own: MachineSettings | None, state: ResolvedSystem, machine: ResolvedMachine, hook_image: str
) -> MachineTarget:
    spec, system = view.spec, state.name
    if own is not None and own.system_ref is not None:
        system = own.system_ref.tree_name
        machine = _machine_of(_resolved(view, system), machine.name)
    return MachineTarget(
        instance=view.name,
        blueprint=_shared_blueprint(system, machine, spec.placement, view.kubevirt.hook, hook_image),
        vm_name=machine_name(view.deployment, view.name, machine.name),
        running=is_on(view, own),
        wanted=_wanted(spec),
        keep_unchanged=_keeps_unchanged(spec),
        edits_wait=edits_wait(spec),
    )


def _resolved(view: InstanceView, name: str) -> ResolvedSystem:
    state = view.systems[name]
    if isinstance(state, KigiError):
        raise state
    return state


def _running_machines(view: InstanceView) -> frozenset[str]:
    """Machines that may stay although an edit has removed them from the state."""
    if not edits_wait(view.spec):
        return frozenset()
    return frozenset(machine.vm.machine for machine in view.machines if view.owns(machine.vm))


def _check_known(settings: Mapping[str, MachineSettings], state: ResolvedSystem, running: frozenset[str]) -> None:
    if not settings:
        return
    known = {machine.name for machine in state.machines}
    for name in settings:
        if name not in known | running:
            raise MachineUnknown(
                f"spec.machines[{name}]: SystemNode {state.name} has no such machine; "
                f"it has {', '.join(sorted(known)) or 'none'}"
            )


def _machine_of(state: ResolvedSystem, name: str) -> ResolvedMachine:
    for machine in state.machines:
        if machine.name == name:
            return machine
    raise MachineUnknown(f"spec.machines[{name}].systemRef: SystemNode {state.name} has no machine {name}")
