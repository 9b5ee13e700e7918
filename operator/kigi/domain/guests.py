"""Facts about the guest of an image, as far as hardware and placement must fit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EFI, BIOS = "EFI", "BIOS"
_BY_DEFAULT: Mapping[str | None, str] = {None: BIOS, "amd64": BIOS, "arm64": EFI}
"""Firmware that KubeVirt gives a VM without a boot loader, by architecture; others have neither."""


@dataclass(frozen=True, slots=True)
class Guest:
    """Architecture and firmware of an image; None: any, or unknown."""

    architecture: str | None = None
    firmware: str | None = None

    def above(self, parent: Guest) -> Guest:
        """The facts of an image that declares ``self`` on a parent with these facts."""
        return Guest(self.architecture or parent.architecture, self.firmware or parent.firmware)


NO_GUEST = Guest()
"""Nothing is declared."""


def hardware_firmware(settings: Mapping[str, Any], architecture: str | None) -> str | None:
    """Firmware of a machine with these settings; None if a preference or the architecture decides it elsewhere."""
    at: Any = (settings.get("patch") or {}).get("merge") or {}
    for key in ("spec", "domain", "firmware", "bootloader"):
        at = at.get(key) if isinstance(at, Mapping) else None
    if isinstance(at, Mapping) and ("efi" in at or "bios" in at):
        return EFI if "efi" in at else BIOS
    if (settings.get("hardware") or {}).get("preferenceRef"):
        return None
    return _BY_DEFAULT.get(architecture)
