"""What Kigi needs to know about KubeVirt: hooks, run strategies and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEFAULT_MEMORY = "512Mi"


DEFAULT_INSTANCETYPE = "VirtualMachineClusterInstancetype"
"""Kind of an instancetype that is named without one. Source: KubeVirt's InstancetypeMatcher."""


LAUNCHER_OVERHEAD_BYTES = 256 * 2**20
"""What virt-launcher, libvirt and QEMU take beside the guest's memory, for the room on a node alone."""


RUN_STRATEGIES = ("Always", "RerunOnFailure")
"""Of a VM that shall run."""


HookKind = Literal["Plugin", "Sidecar"]


@dataclass(frozen=True, slots=True)
class KubeVirtState:
    """What KubeVirt of this cluster can do; ``hook`` None: no way to attach qcow2, and ``why_not`` says which gate."""

    version: str = ""
    hook: HookKind | None = None
    why_not: str = ""
    pending: bool = False
    """The operator itself makes the hook available."""
