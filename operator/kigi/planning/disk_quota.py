"""Which new disks the SystemQuotas of a namespace allow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from kigi.domain.layers import Layer
from kigi.domain.observed import Slot
from kigi.errors import QuotaExceeded
from kigi.planning.placement import Choice
from kigi.planning.quotas import Account, Allowance, NewDisks
from kigi.planning.targets import MachineTarget


def within_quota(
    allowance: Allowance, deployment: str, targets: Sequence[MachineTarget], choices: Mapping[Slot, Choice]
) -> tuple[Mapping[Slot, Choice], QuotaExceeded | None]:
    """The choices of instances whose new disks fit, in their order, and the error of the first that does not.

    An instance gets all of its new disks or none: half of a system is of no use. O(machines x chain length).
    """
    if not allowance.limits or not choices:
        return choices, None
    account = Account(allowance)
    allowed: dict[Slot, Choice] = {}
    error: QuotaExceeded | None = None
    by_instance: dict[str, list[MachineTarget]] = defaultdict(list)
    for target in targets:
        if target.slot in choices:
            by_instance[target.instance].append(target)
    for found in by_instance.values():
        try:
            account.take_disks(_new_disks(deployment, found, choices))
        except QuotaExceeded as exc:
            error = error or exc
        else:
            allowed.update((target.slot, choices[target.slot]) for target in found)
    return allowed, error


def _new_disks(deployment: str, targets: Sequence[MachineTarget], choices: Mapping[Slot, Choice]) -> NewDisks:
    layers: dict[str, list[Layer]] = defaultdict(list)
    for target in targets:
        layers[choices[target.slot].node].extend(layer for chain in target.chains for layer in chain)
    return NewDisks(layers, {(deployment, *target.slot) for target in targets})
