"""What the plan and the status of one SystemDeployment read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kigi.api.deployment import SystemDeploymentSpec, SystemDeploymentStatus
from kigi.api.instance import SystemInstanceSpec, SystemInstanceStatus
from kigi.domain.layers import Digest, Layer
from kigi.errors import KigiError
from kigi.planning.view import InstanceObjects


@dataclass(frozen=True, slots=True)
class ObservedInstance:
    """A SystemInstance that names the deployment."""

    name: str
    """Name within the deployment."""
    object_name: str
    uid: str
    generation: int
    deleting: bool
    has_finalizer: bool
    """Kigi has planned it: it may have VMs and disks."""
    owner_uids: tuple[str, ...]
    """uids of the SystemDeployments among its owners."""
    status: SystemInstanceStatus | None
    """A report: read for the deployment's own report, and never for a decision."""
    settings: SystemInstanceSpec | None = None
    """None: its spec does not validate."""

    def is_of(self, deployment_uid: str) -> bool:
        """Whether the deployment uses it: not if it was owned by a former deployment of the same name.

        An instance without such an owner, which a user has created, is used: only its identity decides.
        """
        return not self.owner_uids or deployment_uid in self.owner_uids


@dataclass(frozen=True, slots=True)
class LayerUse:
    """Layers of the newest disks of a deployment; each node counts a layer once."""

    whole_bytes: int = 0
    """Sum of every disk's whole chain: the cost without trees and caches."""
    wanted_on: Mapping[str, Mapping[Digest, Layer]] = field(default_factory=dict)
    held_on: Mapping[str, frozenset[Digest]] = field(default_factory=dict)
    """Layers that each node holds now."""
    held_before: Mapping[str, frozenset[Digest]] | None = None
    """Layers that each node held when this generation was first seen; None: another operator saw it first."""


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """Input of the plan and of the status of one SystemDeployment."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    has_finalizer: bool
    spec: SystemDeploymentSpec | KigiError
    instances: tuple[ObservedInstance, ...]
    leftovers: tuple[InstanceObjects, ...]
    """Objects of instances that have no SystemInstance: it was deleted by force."""
    now: datetime
    layers: LayerUse = field(default_factory=LayerUse)
    problem: KigiError | None = None
    """Error of resolving the state that the spec names."""
    old_status: SystemDeploymentStatus | None = None
    """For transition times, timings and costs of the next status; the plan does not read it."""
