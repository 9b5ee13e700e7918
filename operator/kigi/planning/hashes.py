"""Hashes of a machine's template: the operator compares them, so that it applies and restarts a VM only on a change."""

from __future__ import annotations

import hashlib
import json

from kigi.api.deployment import Placement
from kigi.domain.kubevirt import HookKind
from kigi.domain.systems import ResolvedMachine

_NOT_HARDWARE = frozenset({"after", "runStrategy"})
"""Template fields that define when a VM starts, not what it is."""


def template_hash(machine: ResolvedMachine, placement: Placement, hook: HookKind | None, hook_image: str) -> str:
    """16 hex digits of everything in a VM except its claims, its name and whether it runs."""
    tolerations = [toleration.to_api() for toleration in placement.tolerations]
    disks = [[disk.name, disk.bus] for disk in machine.disks]
    return _digest([machine.template, tolerations, hook, hook_image, *disks])


def hardware_hash(machine: ResolvedMachine) -> str:
    """16 hex digits of the template fields that take effect only when the VM restarts.

    The hash leaves out everything that Kigi adds (hook, claims, labels, defaults), so that no upgrade restarts a VM.
    It also leaves out tolerations, which matter only until the pod has a node, and the fields of ``_NOT_HARDWARE``.
    """
    template = {key: value for key, value in machine.template.items() if key not in _NOT_HARDWARE}
    return _digest([template, *([disk.name, disk.bus] for disk in machine.disks)])


def _digest(values: list[object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
