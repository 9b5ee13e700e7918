"""State of one machine in one word, and the message beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kigi.api.instance import MAX_MESSAGE, MachineStatus
from kigi.planning.machines import is_outdated, is_running
from kigi.planning.placed import PlacedTarget
from kigi.planning.view import MachineState

PULLS = frozenset({"ErrImagePull", "ImagePullBackOff"})
"""Printable status of a VM whose pod waits for an image."""
_TROUBLES = {
    "ErrorUnschedulable": "Unschedulable",
    "CrashLoopBackOff": "CrashLooping",
    **dict.fromkeys((*PULLS, "ErrorPvcNotFound", "DataVolumeError"), "Failed"),
}
"""KubeVirt's printable status of a VM that does not run -> state of the machine.

Source: KubeVirt staging/src/kubevirt.io/api/core/v1/types.go, VirtualMachinePrintableStatus, the same in 1.7 and 1.9.
"""


FILLS_DISK = (
    "Kigi has paused the VM: the disk of its node is nearly full, and the VM writes to it and has more than its share; "
    "reset the machine, or free space on the node and resume the VM with virtctl unpause vmi"
)


def machine_status(
    placed: PlacedTarget,
    system: str,
    previous_message: str | None = None,
    written_bytes: Mapping[str, int] | None = None,
) -> MachineStatus:
    """Status of one machine of an instance whose state is ``system``.

    ``previous_message``: message of the last status, kept because KubeVirt drops the reason between two failing starts.
    ``written_bytes``: what guests have written, by volume.
    """
    written = [size for disk in placed.disks if (size := (written_bytes or {}).get(disk.volume)) is not None]
    return MachineStatus(
        name=placed.target.machine,
        node_name=placed.node,
        state=machine_state(placed),
        system_name=placed.fingerprint.system if placed.fingerprint.system != system else None,
        revision=placed.revision,
        written_bytes=sum(written) if written else None,
        message=_short(_message(placed, previous_message)),
    )


def machine_state(placed: PlacedTarget) -> str:
    """State of the machine: the first of ``_STATES`` that holds, or a trouble that KubeVirt reports, or Starting."""
    if not placed.is_cached:
        return "Warming"
    if placed.waits_for:
        return "Waiting"
    machine = placed.observed
    if machine is None or machine.vm.claim is None:
        return "Pending"
    for state, holds in _STATES:
        if holds(placed, machine):
            return state
    return _TROUBLES.get(machine.vm.printable_status, "Starting")


def is_unpulled(placed: PlacedTarget) -> bool:
    """Whether the VM's pod waits for an image that the node cannot pull, such as that of the disk hook."""
    machine = placed.observed
    return machine is not None and machine_state(placed) == "Failed" and machine.vm.printable_status in PULLS


def is_halted(machine: MachineState) -> bool:
    """Whether the VM is off, or is being stopped, so that KubeVirt drops its ghost record."""
    return machine.blocked_by_ghost_record or (machine.vm.halted_until is not None and not machine.vm.running)


def _has_other_disk(placed: PlacedTarget, machine: MachineState) -> bool:
    return machine.vm.claim != placed.claim or machine.vmi_claim not in (None, placed.claim)


def _should_be_off(placed: PlacedTarget, _: MachineState) -> bool:
    return not placed.target.running


def _restarts_for_template(_: PlacedTarget, machine: MachineState) -> bool:
    return is_outdated(machine) and machine.vmi_phase != "Succeeded"


def _powered_off(_: PlacedTarget, machine: MachineState) -> bool:
    return machine.vmi_phase == "Succeeded" or (machine.vmi is None and machine.vm.printable_status == "Stopped")


_STATES: tuple[tuple[str, Callable[[PlacedTarget, MachineState], bool]], ...] = (
    ("Restarting", _has_other_disk),
    ("Failed", lambda _, machine: machine.vmi_phase == "Failed"),
    ("Stopped", lambda placed, machine: _should_be_off(placed, machine) and machine.vmi is None),
    ("Stopping", _should_be_off),
    ("Running", lambda _, machine: is_running(machine)),
    ("Restarting", lambda _, machine: is_halted(machine)),
    ("Paused", lambda _, machine: machine.paused),
    ("Restarting", _restarts_for_template),
    ("PoweredOff", _powered_off),
)
"""States of a machine that has a VM and its layers; the first one that holds counts."""


def _message(placed: PlacedTarget, previous: str | None) -> str | None:
    if placed.waits_for:
        return f"starts after {', '.join(placed.waits_for)}"
    if placed.fills_disk and placed.observed is not None and placed.observed.paused:
        return FILLS_DISK
    return _trouble(placed.observed, previous)


def _trouble(machine: MachineState | None, previous: str | None) -> str | None:
    if machine is not None and machine.persistent_state:
        return f"no reset reaches the state of its persistent domain.{machine.persistent_state}"
    if machine is None or is_running(machine):
        return None
    if is_halted(machine):
        return "KubeVirt has a ghost record of its last run; it stays off for 30 s and then starts"
    if machine.paused and is_outdated(machine):
        return "its hardware has changed; it restarts when it is resumed"
    printable = machine.vm.printable_status
    if machine.message or printable not in _TROUBLES:
        return machine.message or None
    return (previous if printable == "CrashLoopBackOff" else None) or printable


def _short(message: str | None) -> str | None:
    return message if message is None or len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
