"""What a namespace may still use by its SystemQuotas.

Amounts are counted from PersistentVolumes and orders of prefetches, not from a status. A limit refuses what is new; it
never takes away what exists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from kigi.api.quota import QuotaUsed
from kigi.domain.layers import Digest, Layer
from kigi.domain.quantities import format_bytes
from kigi.errors import QuotaExceeded

NodeDigests = Mapping[str, Set[Digest]]
"""Node -> layers."""
OwnedSlot = tuple[str, str, str]
"""(deployment, instance, machine)."""
OwnedInstance = tuple[str, str]
"""(deployment, instance)."""
WANTED, PREFETCHED, PINNED = "wanted_bytes", "prefetched_bytes", "pinned_bytes"
OVERLAYS = "overlay_bytes"
INSTANCES, MACHINES = "instances", "machines"


@dataclass(frozen=True, slots=True)
class Limit:
    """One SystemQuota, for one of the namespaces that it selects; or what holds where none does."""

    quota: str
    """Its name; empty: none selects the namespace."""
    hard: Mapping[str, int]
    """By name of the amount, as in QuotaUsed."""
    others: QuotaUsed = field(default_factory=QuotaUsed)
    """What the other namespaces of a shared quota use."""
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a namespace uses, and its limits."""

    namespace: str = ""
    used: QuotaUsed = field(default_factory=QuotaUsed)
    wanted: NodeDigests = field(default_factory=dict)
    """Layers that count as wanted bytes."""
    slots: Set[OwnedSlot] = frozenset()
    """Machines that have disks."""
    instances: Set[OwnedInstance] = frozenset()
    """Instances that have disks."""
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class NewDisks:
    """Disks to be made: the layers below them by node, and their machines."""

    layers: Mapping[str, Iterable[Layer]]
    slots: Set[OwnedSlot]


class Account:
    """What remains of an allowance while one plan takes from it."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._used: dict[str, int] = dict(allowance.used)
        self._wanted: dict[str, set[Digest]] = defaultdict(set)
        self._slots: set[OwnedSlot] = set()
        self._instances: set[OwnedInstance] = set()

    def take_disks(self, disks: NewDisks) -> None:
        """Counts the disks, or raises QuotaExceeded and counts nothing. O(layers of the disks + machines)."""
        fresh: dict[str, dict[Digest, int]] = {}
        for node, layers in disks.layers.items():
            known, taken = self._allowance.wanted.get(node, frozenset()), self._wanted[node]
            fresh[node] = {x.digest: x.size_bytes for x in layers if x.digest not in known and x.digest not in taken}
        slots = {slot for slot in disks.slots if slot not in self._allowance.slots and slot not in self._slots}
        instances = {slot[:2] for slot in slots} - self._allowance.instances - self._instances
        added = {
            WANTED: sum(sum(sizes.values()) for sizes in fresh.values()),
            OVERLAYS: 1 if slots else 0,  # a new disk is written to; one that replaces another gives space back
            MACHINES: len(slots),
            INSTANCES: len(instances),
        }
        self._take(added)
        for node, sizes in fresh.items():
            self._wanted[node].update(sizes)
        self._slots |= slots
        self._instances |= instances

    def take_prefetch(self, size_bytes: int, *, pinned: bool) -> None:
        """Counts the order of a prefetch to one node, or raises QuotaExceeded: without any limit nothing is pinned."""
        self._take({PREFETCHED: size_bytes, PINNED: size_bytes if pinned else 0})

    def _take(self, added: Mapping[str, int]) -> None:
        limits = self._allowance.limits
        if added.get(PINNED) and not any(PINNED in limit.hard for limit in limits):
            raise QuotaExceeded(
                f"spec.retention: namespace {self._allowance.namespace} may pin no layers: no SystemQuota gives it "
                "pinnedBytes; use Evictable, or ask an administrator for a SystemQuota"
            )
        for limit in limits:
            for name, hard in limit.hard.items():
                more = added.get(name, 0)
                if more and self._used[name] + more + getattr(limit.others, name) > hard:
                    raise _exceeded(self._allowance.namespace, limit, name, self._used[name], more)
        for name, more in added.items():
            self._used[name] += more


def total(uses: Iterable[QuotaUsed]) -> QuotaUsed:
    """The sum of amounts."""
    sums: dict[str, int] = defaultdict(int)
    for used in uses:
        for name, value in used:
            sums[name] += value
    return QuotaUsed.model_validate(sums)


def exceeded(used: QuotaUsed, hard: Mapping[str, int]) -> list[str]:
    """Names of the amounts above their limits, as in the API."""
    return [_json_name(name) for name, limit in hard.items() if getattr(used, name) > limit]


def _exceeded(namespace: str, limit: Limit, name: str, used: int, more: int) -> QuotaExceeded:
    def amount(value: int) -> str:
        return format_bytes(value) if name.endswith("_bytes") else str(value)

    together = ", which it shares with other namespaces" if limit.shared else ""
    remedy = "ask an administrator"
    source, reason = f"SystemQuota {limit.quota}", ""
    if not limit.quota:
        source, reason = "default limits", ", as no SystemQuota selects the namespace"
        remedy = "ask an administrator for a SystemQuota that selects the namespace"
    if name == OVERLAYS:
        return QuotaExceeded(
            f"{source}: the guests of namespace {namespace} have written {amount(used)}, and the "
            f"limit of overlayBytes is {amount(limit.hard[name])}{together}{reason}; reset machines that have "
            f"written much, or delete instances, or {remedy}"
        )
    return QuotaExceeded(
        f"{source}: namespace {namespace} uses {amount(used)} of {_json_name(name)}, this needs "
        f"{amount(more)} more, and the limit is {amount(limit.hard[name])}{together}{reason}; delete what is not "
        f"needed, or {remedy}"
    )


def _json_name(name: str) -> str:
    return QuotaUsed.model_fields[name].alias or name
