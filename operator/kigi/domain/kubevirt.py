"""KubeVirt's hooks, run strategies and defaults, as far as Kigi depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kigi.domain import kinds

DEFAULT_MEMORY = "512Mi"
DEFAULT_INSTANCETYPE = kinds.CLUSTER_INSTANCETYPE
"""Kind of an instancetype that a VM names without a kind. Source: KubeVirt's InstancetypeMatcher."""
LAUNCHER_OVERHEAD_BYTES = 256 * 2**20
"""Memory of virt-launcher, libvirt and QEMU beside the guest's; only for the free memory of nodes."""
RUN_STRATEGIES = ("Always", "RerunOnFailure")
"""runStrategy values of a VM that should run; the first is the default."""
HookKind = Literal["Plugin", "Sidecar"]


def run_strategy_of(guest_power_off_policy: str | None) -> str:
    """KubeVirt's runStrategy of a VM that should run. An unknown policy counts as Restart."""
    return RUN_STRATEGIES[guest_power_off_policy == "StayOff"]


@dataclass(frozen=True, slots=True)
class KubeVirtState:
    """The hook that the cluster's KubeVirt offers; ``hook`` None: none, and ``why_not`` names the missing gate."""

    version: str = ""
    hook: HookKind | None = None
    why_not: str = ""
    pending: bool = False
    """The operator is about to make the hook available."""
    gate: str = ""
    """The feature gate that would make a hook available; empty: there is one, or no gate would."""
