"""Settings of a machine that states inherit: everything in a SystemNode's machine except its images.

They are a mapping with the API's names: ``rootDisk`` (bus, bootOrder), ``hardware``, ``patch``, ``startAfter``,
``readinessProbe`` and ``guestPowerOffPolicy``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kigi.domain.machine_patch import Path, join_patches, patch_problem, without
from kigi.errors import SpecInvalid

Settings = Mapping[str, Any]

UNSET: Mapping[str, Path] = {
    "cpu": ("hardware", "cpu"),
    "memory": ("hardware", "memory"),
    "instancetypeRef": ("hardware", "instancetypeRef"),
    "preferenceRef": ("hardware", "preferenceRef"),
    "interfaces": ("hardware", "interfaces"),
    "cloudInit": ("hardware", "cloudInit"),
    "patch": ("patch",),
    "startAfter": ("startAfter",),
    "readinessProbe": ("readinessProbe",),
    "guestPowerOffPolicy": ("guestPowerOffPolicy",),
}
"""Values of ``unset``: the inherited fields that a child can drop."""

START_SETTINGS = frozenset({"startAfter", "guestPowerOffPolicy"})
"""Settings that define when a VM starts, not what it is; the hash of the hardware leaves them out."""

_FIELDS = ("hardware", "patch", "startAfter", "readinessProbe", "guestPowerOffPolicy")
_UNIONS: Mapping[str, tuple[frozenset[str], ...]] = {
    "cloudInit": (frozenset({"secretRef"}), frozenset({"userData", "networkData"})),
    "readinessProbe": tuple(frozenset({name}) for name in ("guestAgentPing", "tcpSocket", "httpGet", "exec")),
}
"""Members that exclude each other: a child's member replaces the parent's; fields outside of the members are merged."""


def settings_of(machine: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of one item of ``spec.machines``; raises SpecInvalid for a patch that is too large or too deep."""
    settings = {key: machine[key] for key in _FIELDS if machine.get(key) is not None}
    root = {key: value for key, value in (machine.get("rootDisk") or {}).items() if key in ("bus", "bootOrder")}
    problem = patch_problem(settings.get("patch", {}).get("merge") or {})
    if problem is not None:
        raise SpecInvalid(f"{where}.patch.merge: {problem}")
    return {**settings, **({"rootDisk": root} if root else {})}


def merge_settings(base: Settings, change: Settings, unset: Iterable[str] = ()) -> dict[str, Any]:
    """A child's settings over its parent's, of which ``unset`` is dropped first.

    Fields of ``cpu`` and ``rootDisk`` are merged one by one; patches are joined; lists and references are replaced.
    """
    merged = without(base, (UNSET[name] for name in unset if name in UNSET))
    for key, value in change.items():
        below = merged.get(key)
        if key == "patch":
            merged[key] = join_patches(below or {}, value)
        elif key == "hardware":
            merged[key] = _hardware(below or {}, value)
        elif key in _UNIONS:
            merged[key] = _union(key, below or {}, value)
        else:
            merged[key] = {**below, **value} if isinstance(below, Mapping) else value
    return merged


def _hardware(base: Settings, change: Settings) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        if key in _UNIONS:
            merged[key] = _union(key, merged.get(key) or {}, value)
        elif key in ("cpu", "memory"):
            merged[key] = {**(merged.get(key) or {}), **value}
        else:
            merged[key] = value
    return merged


def _union(key: str, base: Settings, change: Settings) -> dict[str, Any]:
    other = {name for member in _UNIONS[key] if not member & change.keys() for name in member}
    excluded = other if any(member & change.keys() for member in _UNIONS[key]) else set[str]()
    return {name: value for name, value in base.items() if name not in excluded} | dict(change)
