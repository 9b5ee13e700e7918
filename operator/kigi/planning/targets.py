"""Machine targets: every VM that a SystemDeployment asks for, with overrides applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kigi.api.deployment import MAX_MACHINES, InstanceOverride, MachineOverride, Placement, SystemDeploymentSpec
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.kubevirt import HookKind
from kigi.domain.layers import Chain, Digest
from kigi.domain.names import machine_name
from kigi.domain.observed import Slot
from kigi.domain.systems import ResolvedMachine, ResolvedSystem
from kigi.errors import KigiError, MachineUnknown, TooManyMachines
from kigi.planning.hashes import hardware_hash, template_hash
from kigi.planning.view import DeploymentView


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One machine of one state; all instances that run the state share it, so each hash is computed once per plan."""

    system: str
    machine: ResolvedMachine
    digests: frozenset[Digest]
    """Every layer of every disk."""
    hardware_hash: str
    template_hash: str
    """Depends on the deployment's tolerations and on the hook, too."""

    @classmethod
    def of(
        cls, system: str, machine: ResolvedMachine, placement: Placement, hook: HookKind | None, hook_image: str
    ) -> Blueprint:
        """Blueprint of a machine of a state for one placement and hook."""
        return cls(
            system,
            machine,
            frozenset(layer.digest for chain in machine.chains for layer in chain),
            hardware_hash(machine),
            template_hash(machine, placement, hook, hook_image),
        )

    @property
    def key(self) -> tuple[str, str]:
        """(state, machine): equal for equal blueprints of one plan."""
        return (self.system, self.machine.name)

    def disk_digests(self) -> tuple[tuple[str, str], ...]:
        """(name, digest of the topmost layer) of each extra disk."""
        return tuple((disk.name, str(disk.chain[-1].digest)) for disk in self.machine.disks)


@dataclass(frozen=True, slots=True)
class MachineTarget:
    """One VM as it should be, before its disks have a revision and a node."""

    instance: int
    blueprint: Blueprint
    vm_name: str
    running: bool
    resets: tuple[str | None, str | None, str | None]
    """Reset tokens of the deployment, the instance and the machine."""
    keep_unchanged: bool = False
    """A switch keeps the disk if the image stays the same."""

    @property
    def machine(self) -> str:
        """Name of the machine in its state."""
        return self.blueprint.machine.name

    @property
    def system(self) -> str:
        """Name of the state."""
        return self.blueprint.system

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
        """State that a new overlay is created for; removed reset tokens are kept from ``before``."""
        old = before.resets if before else (None, None, None)
        first, second, third = (new if new is not None else kept for new, kept in zip(self.resets, old, strict=True))
        return Fingerprint(self.chain[-1].digest, self.system, (first, second, third), self.blueprint.disk_digests())

    def needs_new_disk(self, before: Fingerprint | None) -> bool:
        """Whether an overlay with the fingerprint ``before`` must be replaced.

        True for another image, a new reset token, or a switch under ResetAll. A removed token is not a new one:
        deleting an override must not delete a guest's writes.
        """
        if before is None or before.image != self.chain[-1].digest or before.disks != self.blueprint.disk_digests():
            return True
        if any(new is not None and new != old for new, old in zip(self.resets, before.resets, strict=True)):
            return True
        return not self.keep_unchanged and before.system != self.system


def machine_targets(view: DeploymentView, *, hook_image: str = "") -> tuple[MachineTarget, ...]:
    """Every VM that the spec asks for, sorted by instance and name; the most specific override wins.

    Raises the error of a state that cannot be resolved; MachineUnknown for an override of a machine that the
    instance's state does not have; or TooManyMachines. Overrides of instances beyond ``replicas`` have no effect yet.
    O(machines), and one hash per machine of each state.
    """
    factory = _Targets(view, hook_image)
    overrides = {override.instance: override for override in view.spec.overrides}
    targets: list[MachineTarget] = []
    for instance in range(view.spec.replicas):
        targets.extend(factory.of_instance(instance, overrides.get(instance)))
        if len(targets) > MAX_MACHINES:
            raise TooManyMachines(
                f"spec.replicas: the first {instance + 1} of {view.spec.replicas} instances have {len(targets)} "
                f"machines; a SystemDeployment holds at most {MAX_MACHINES}: lower spec.replicas, and create another "
                "SystemDeployment"
            )
    return tuple(targets)


def named_systems(spec: SystemDeploymentSpec) -> frozenset[str]:
    """Every state that the spec names: its own, those of overrides, and prefetched ones."""
    names = {spec.system.name, *(ref.name for ref in spec.prefetch)}
    for override in spec.overrides:
        names.update(ref.name for ref in (override.system, *(m.system for m in override.machines)) if ref)
    return frozenset(names)


class _Targets:
    """Builds targets; keeps one blueprint per machine of each state, as placement and hook are the same for all."""

    def __init__(self, view: DeploymentView, hook_image: str) -> None:
        self._view, self._hook_image = view, hook_image
        self._blueprints: dict[tuple[str, str], Blueprint] = {}

    def of_instance(self, instance: int, override: InstanceOverride | None) -> list[MachineTarget]:
        spec = self._view.spec
        state = self._resolved(override.system.name if override and override.system else spec.system.name)
        own = {machine.name: machine for machine in override.machines} if override else {}
        _check_known(own, state, instance)
        return [self._target(instance, override, own.get(machine.name), state, machine) for machine in state.machines]

    def _target(
        self,
        instance: int,
        override: InstanceOverride | None,
        own: MachineOverride | None,
        state: ResolvedSystem,
        machine: ResolvedMachine,
    ) -> MachineTarget:
        spec, system = self._view.spec, state.name
        if own is not None and own.system is not None:
            system = own.system.name
            machine = _machine_of(self._resolved(system), machine.name, instance)
        running = spec.running
        for level in (override, own):
            if level is not None and level.running is not None:
                running = level.running
        return MachineTarget(
            instance=instance,
            blueprint=self._blueprint(system, machine),
            vm_name=machine_name(self._view.name, instance, machine.name),
            running=running,
            resets=(spec.reset, override.reset if override else None, own.reset if own else None),
            keep_unchanged=spec.switch_policy == "KeepUnchanged",
        )

    def _blueprint(self, system: str, machine: ResolvedMachine) -> Blueprint:
        key = (system, machine.name)
        found = self._blueprints.get(key)
        if found is None:
            view = self._view
            found = Blueprint.of(system, machine, view.spec.placement, view.kubevirt.hook, self._hook_image)
            self._blueprints[key] = found
        return found

    def _resolved(self, name: str) -> ResolvedSystem:
        state = self._view.systems[name]
        if isinstance(state, KigiError):
            raise state
        return state


def _check_known(overrides: Mapping[str, MachineOverride], state: ResolvedSystem, instance: int) -> None:
    if not overrides:
        return
    known = {machine.name for machine in state.machines}
    for name in overrides:
        if name not in known:
            raise MachineUnknown(
                f"spec.overrides[{instance}].machines[{name}]: SystemNode {state.name} has no such machine; "
                f"it has {', '.join(sorted(known)) or 'none'}"
            )


def _machine_of(state: ResolvedSystem, name: str, instance: int) -> ResolvedMachine:
    for machine in state.machines:
        if machine.name == name:
            return machine
    raise MachineUnknown(
        f"spec.overrides[{instance}].machines[{name}].system: SystemNode {state.name} has no machine {name}"
    )
