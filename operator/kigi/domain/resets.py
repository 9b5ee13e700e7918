"""Requests for resets, and which machines each of them concerns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kigi.domain.fingerprint import Fingerprint, request_mark
from kigi.domain.listing import first_names
from kigi.domain.names import instance_order
from kigi.errors import DeploymentMissing, KigiError, MachineUnknown

SETTLE = timedelta(seconds=60)
"""An object that was created up to this time after a request may be meant by it: both may be applied together."""
MAX_LIVE = 64
"""Newest requests of one instance that decisions read; a disk that is newer than a request has it in any case."""
_SHOWN = 8
"""Names that a message lists."""


@dataclass(frozen=True, slots=True)
class ResetRequest:
    """A SystemReset, as decisions read it."""

    name: str
    uid: str
    created: datetime
    deployment: str
    instances: frozenset[str] = frozenset()
    """Names of instances; empty: all."""
    machines: frozenset[str] = frozenset()
    """Names of machines; empty: all."""
    requested_by: str = ""

    @property
    def mark(self) -> str:
        """Mark of the request in fingerprints."""
        return request_mark(self.uid)

    def concerns(self, instance: str, machine: str | None = None) -> bool:
        """Whether the request is about the instance, and the machine if one is given."""
        if self.instances and instance not in self.instances:
            return False
        return machine is None or not self.machines or machine in self.machines

    def is_older_than(self, disk_created: datetime | None) -> bool:
        """Whether a disk was surely created after the request; times have whole seconds, so equal ones are unsure."""
        return disk_created is not None and disk_created > self.created


@dataclass(frozen=True, slots=True)
class ResetScope:
    """What exists of a deployment that a request may name."""

    name: str
    created: datetime | None
    instances: Mapping[str, datetime | None]
    """Creation of each instance that the deployment has and the request may name; None: there is no object yet."""
    machines: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Machines of each of these instances; one whose state is not resolved is missing."""
    selected: tuple[str, ...] = ()
    """Every instance that the deployment has."""


def refusal(request: ResetRequest, scope: ResetScope | None) -> KigiError | None:
    """Why the request resets nothing; None: it is accepted. One unknown name refuses the whole request.

    Depends on names and times of creation alone. A name of which an object appears later is not meant by the request: a
    request with a typing error must not reset the other teams weeks later. O(names of the request).
    """
    if scope is None:
        return DeploymentMissing(
            f"spec.deploymentRef.name: there is no SystemDeployment {request.deployment} in this namespace; create "
            "another SystemReset with the right name"
        )
    if _is_later(scope.created, request):
        return DeploymentMissing(
            f"spec.deploymentRef.name: SystemDeployment {scope.name} was created after this request, so its disks are "
            "newer; delete the request"
        )
    for name in sorted(request.instances, key=instance_order):
        if name not in scope.instances:
            return DeploymentMissing(
                f"spec.instances: SystemDeployment {scope.name} has no instance {name}; it has "
                f"{_some(sorted(scope.selected, key=instance_order))}; create another SystemReset"
            )
        if _is_later(scope.instances[name], request):
            return DeploymentMissing(
                f"spec.instances: instance {name} of SystemDeployment {scope.name} was created after this request; "
                "create another SystemReset"
            )
    return _unknown_machine(request, scope)


def _unknown_machine(request: ResetRequest, scope: ResetScope) -> KigiError | None:
    """The error of a machine that none of the instances has; instances that are not resolved yet may have any."""
    missing = set(request.machines)
    instances = request.instances or scope.instances.keys()
    for instance in instances:
        if not missing:
            return None
        machines = scope.machines.get(instance)
        if machines is None:
            return None
        missing -= machines
    if not missing or not instances:
        return None
    known = sorted(set().union(*(scope.machines[name] for name in instances)))
    return MachineUnknown(
        f"spec.machines: no instance of this request has a machine {min(missing)}; known are {_some(known)}; create "
        "another SystemReset"
    )


def _is_later(created: datetime | None, request: ResetRequest) -> bool:
    return created is not None and created > request.created + SETTLE


def newest_of(requests: Iterable[ResetRequest], instance: str) -> tuple[ResetRequest, ...]:
    """The newest MAX_LIVE requests about an instance, oldest first."""
    found = (request for request in requests if request.concerns(instance))
    return tuple(sorted(found, key=lambda request: (request.created, request.uid))[-MAX_LIVE:])


def wanted_marks(
    requests: Sequence[ResetRequest], machine: str, tokens: Sequence[str], seen: Collection[str], made: datetime | None
) -> tuple[str, ...]:
    """Marks that a machine's disk must have, the one that asks for a new disk last.

    ``tokens``: marks of its reset tokens. ``seen`` and ``made``: marks and creation of its present disk. A request that
    the disk has seen is listed, so that the next disk keeps its mark while the request exists. Another one that is
    older than the disk is left out: the disk has it.
    """
    mine = [request for request in requests if not request.machines or machine in request.machines]
    had = [request.mark for request in mine if request.mark in seen]
    new = [request.mark for request in mine if request.mark not in seen and not request.is_older_than(made)]
    return (*had, *tokens, *new)


def request_behind(record: Fingerprint, requests: Iterable[ResetRequest]) -> ResetRequest | None:
    """The request that a reset disk was made for, by its record; None: a token, or a request that was deleted since."""
    last = record.seen[-1] if record.seen else ""
    return next((request for request in requests if request.mark == last), None)


def _some(names: Sequence[str]) -> str:
    return first_names(names, _SHOWN) or "none"
