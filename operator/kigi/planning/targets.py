"""What a SystemDeployment asks for, machine by machine, with overrides applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kigi.api.deployment import MAX_MACHINES, InstanceOverride, MachineOverride, SystemDeploymentSpec
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.layers import Chain
from kigi.domain.observed import Slot
from kigi.domain.systems import ResolvedDisk, ResolvedMachine, ResolvedSystem
from kigi.errors import KigiError, MachineUnknown, TooManyMachines


@dataclass(frozen=True, slots=True)
class MachineTarget:
    """One VM as it shall be."""

    instance: int
    machine: str
    system: str
    image: str
    chain: Chain
    template: Mapping[str, object]
    running: bool
    resets: tuple[str | None, str | None, str | None]
    keep_unchanged: bool
    after: tuple[str, ...] = ()
    """Machines of its instance that are ready before it starts."""
    disks: tuple[ResolvedDisk, ...] = ()
    """Those beside the one that it boots from."""

    @property
    def chains(self) -> Iterator[Chain]:
        """Of all its disks."""
        yield self.chain
        for disk in self.disks:
            yield disk.chain

    @property
    def slot(self) -> Slot:
        """Its place."""
        return (self.instance, self.machine)

    def fingerprint(self, before: Fingerprint | None = None) -> Fingerprint:
        """What its overlay is made for; tokens that are no longer given are remembered from ``before``."""
        old = before.resets if before else (None, None, None)
        first, second, third = (new if new is not None else kept for new, kept in zip(self.resets, old, strict=True))
        return Fingerprint(self.chain[-1].digest, self.system, (first, second, third), self._disk_digests())

    def _disk_digests(self) -> tuple[tuple[str, str], ...]:
        return tuple((disk.name, str(disk.chain[-1].digest)) for disk in self.disks)

    def needs_new_disk(self, before: Fingerprint | None) -> bool:
        """Whether an overlay made for ``before`` does not serve: other image, new token, or a switch under ResetAll.

        Taking a token away is not a new token: deleting an override does not throw away a guest's writes.
        """
        if before is None or before.image != self.chain[-1].digest or before.disks != self._disk_digests():
            return True
        if any(new is not None and new != old for new, old in zip(self.resets, before.resets, strict=True)):
            return True
        return not self.keep_unchanged and before.system != self.system


def machine_targets(
    spec: SystemDeploymentSpec, systems: Mapping[str, ResolvedSystem | KigiError]
) -> tuple[MachineTarget, ...]:
    """Every VM that the spec asks for, by instance and name; the most specific override wins.

    Raises the error of a state that cannot be resolved, MachineUnknown for an override of a machine that the
    instance's state does not have, or TooManyMachines. Overrides of instances beyond ``replicas`` wait for them.
    O(machines).
    """
    overrides = {override.instance: override for override in spec.overrides}
    wished: list[MachineTarget] = []
    for instance in range(spec.replicas):
        wished.extend(_instance_machines(spec, systems, instance, overrides.get(instance)))
        if len(wished) > MAX_MACHINES:
            raise TooManyMachines(
                f"spec.replicas: {instance + 1} of its {spec.replicas} instances have {len(wished)} machines already; "
                f"a SystemDeployment holds at most {MAX_MACHINES}: lower it, and make another SystemDeployment"
            )
    return tuple(wished)


def named_systems(spec: SystemDeploymentSpec) -> frozenset[str]:
    """Every state that the spec names: wished, overriding or prefetched."""
    names = {spec.system.name, *(ref.name for ref in spec.prefetch)}
    for override in spec.overrides:
        names.update(ref.name for ref in (override.system, *(m.system for m in override.machines)) if ref)
    return frozenset(names)


def _instance_machines(
    spec: SystemDeploymentSpec,
    systems: Mapping[str, ResolvedSystem | KigiError],
    instance: int,
    override: InstanceOverride | None,
) -> list[MachineTarget]:
    state = _resolved(systems, override.system.name if override and override.system else spec.system.name)
    own = {machine.name: machine for machine in override.machines} if override else {}
    known = {machine.name for machine in state.machines}
    for name in own:
        if name not in known:
            raise MachineUnknown(
                f"spec.overrides[{instance}].machines[{name}]: SystemNode {state.name} has no such machine; "
                f"it has {', '.join(sorted(known)) or 'none'}"
            )
    return [_wish(spec, systems, instance, override, own.get(m.name), state, m) for m in state.machines]


def _wish(
    spec: SystemDeploymentSpec,
    systems: Mapping[str, ResolvedSystem | KigiError],
    instance: int,
    override: InstanceOverride | None,
    own: MachineOverride | None,
    state: ResolvedSystem,
    machine: ResolvedMachine,
) -> MachineTarget:
    system = state.name
    if own is not None and own.system is not None:
        system = own.system.name
        machine = _machine_of(_resolved(systems, system), machine.name, instance)
    running = spec.running
    for level in (override, own):
        if level is not None and level.running is not None:
            running = level.running
    return MachineTarget(
        instance=instance,
        machine=machine.name,
        system=system,
        image=machine.image,
        chain=machine.chain,
        template=machine.template,
        running=running,
        resets=(spec.reset, override.reset if override else None, own.reset if own else None),
        keep_unchanged=spec.switch_policy == "KeepUnchanged",
        after=machine.after,
        disks=machine.disks,
    )


def _machine_of(state: ResolvedSystem, name: str, instance: int) -> ResolvedMachine:
    for machine in state.machines:
        if machine.name == name:
            return machine
    raise MachineUnknown(
        f"spec.overrides[{instance}].machines[{name}].system: SystemNode {state.name} has no machine {name}"
    )


def _resolved(systems: Mapping[str, ResolvedSystem | KigiError], name: str) -> ResolvedSystem:
    state = systems[name]
    if isinstance(state, KigiError):
        raise state
    return state
