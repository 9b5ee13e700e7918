"""Checks of a machine with everything that it inherits; the schema sees only what one state has."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kigi.domain.guests import BIOS, hardware_firmware
from kigi.errors import SpecInvalid

if TYPE_CHECKING:
    from kigi.domain.systems import ResolvedMachine

_REMEDY = {True: "bios: {}", False: "efi: {secureBoot: false}"}


def check_machine(system: str, machine: ResolvedMachine) -> None:
    """Raises SpecInvalid if inherited fields contradict each other, or the image's guest."""
    where = f"SystemNode {system}: spec.machines[{machine.name}]"
    _check_processors(where, machine)
    _check_interfaces(where, machine)
    _check_boot_order(where, machine)
    _check_firmware(where, machine)


def _check_processors(where: str, machine: ResolvedMachine) -> None:
    both = [key for key in ("cpu", "memory") if key in machine.hardware]
    if both and "instancetypeRef" in machine.hardware:
        raise SpecInvalid(
            f"{where}.hardware.instancetypeRef: it sets cpu and memory, and the machine has {' and '.join(both)} too; "
            f"add unset: [{', '.join(both)}], or unset: [instancetypeRef]"
        )


def _check_interfaces(where: str, machine: ResolvedMachine) -> None:
    for interface in machine.hardware.get("interfaces") or ():
        network = interface["networkName"]
        if network != "pod" and network not in machine.networks:
            raise SpecInvalid(
                f"{where}.hardware.interfaces[{interface['name']}].networkName: the state has no network {network} "
                "with multusRef; add it to spec.networks"
            )


def _check_boot_order(where: str, machine: ResolvedMachine) -> None:
    root = machine.settings.get("rootDisk") or {}
    orders = Counter([root.get("bootOrder") or 1, *(disk.boot_order for disk in machine.disks if disk.boot_order)])
    order, count = orders.most_common(1)[0]
    if count > 1:
        raise SpecInvalid(f"{where}: {count} disks have bootOrder {order} (rootDisk: 1 by default); give each its own")


def _check_firmware(where: str, machine: ResolvedMachine) -> None:
    wanted = machine.guest.firmware
    found = hardware_firmware(machine.settings, machine.guest.architecture)
    if wanted is not None and found is not None and wanted != found:
        raise SpecInvalid(
            f"{where}.rootDisk.imageRef: its guest boots with {wanted}, and the hardware has {found}; set "
            f"patch.merge.spec.domain.firmware.bootloader to {_REMEDY[wanted == BIOS]}, or name another image"
        )
