"""Placement by brute force, which the product's must equal, and of many instances one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from kigi.api.placement import Placement
from kigi.domain.layers import Digest
from kigi.domain.names import instance_order
from kigi.domain.observed import Slot
from kigi.domain.quantities import format_bytes
from kigi.planning.candidates import ARCHITECTURE_LABEL, is_candidate
from kigi.planning.placement import Choice, place
from kigi.planning.targets import MachineTarget
from kigi.planning.view import NodeState

NOTHING: Mapping[str, int] = MappingProxyType({})


def place_all(
    unplaced: Mapping[str, Sequence[MachineTarget]],
    nodes: Mapping[str, NodeState],
    rules: Placement,
    *,
    memory_of: Mapping[Slot, int],
    load: Mapping[str, int] = NOTHING,
) -> dict[Slot, Choice]:
    """Places instances one after the other, as the operator does: each sees what the others have taken."""
    states, places, choices = dict(nodes), Counter(load), dict[Slot, Choice]()
    for instance in sorted(unplaced, key=instance_order):
        found = place(unplaced[instance], states, rules, memory_of=memory_of, load=places)
        for machine in unplaced[instance]:
            node = found[machine.slot].node
            states[node] = _with(states[node], machine, memory_of[machine.slot])
        places.update({choice.node for choice in found.values()})
        choices |= found
    return choices


def _with(state: NodeState, machine: MachineTarget, memory_bytes: int) -> NodeState:
    return replace(
        state,
        memory_bytes=state.memory_bytes - memory_bytes,
        cache_free_bytes=state.cache_free_bytes - _lacking(state.cached | state.requested, [machine]),
        requested=state.requested | machine.blueprint.layers.keys(),
    )


@dataclass
class _Free:
    state: NodeState
    memory_bytes: int
    cache_bytes: int
    held: frozenset[Digest]


def place_by_force(
    machines: Sequence[MachineTarget],
    nodes: Mapping[str, NodeState],
    rules: Placement,
    *,
    memory_of: Mapping[Slot, int],
    load: Mapping[str, int] = NOTHING,
    home: str | None = None,
    used: Mapping[str, int] = NOTHING,
) -> dict[Slot, Choice]:
    """What ``place`` must return: each machine's node has the smallest score of all candidates."""
    free = {
        name: _Free(s, s.memory_bytes - used.get(name, 0), s.cache_free_bytes, s.held | s.fetching.keys() | s.requested)
        for name, s in nodes.items()
        if is_candidate(s, rules)
    }
    share = -(-(sum(load.values()) + 1) // len(free))

    def runs(name: str, group: Sequence[MachineTarget]) -> bool:
        return all(one.architecture in (None, free[name].state.labels.get(ARCHITECTURE_LABEL)) for one in group)

    def fits(name: str, group: Sequence[MachineTarget]) -> bool:
        enough = sum(memory_of[one.slot] for one in group) <= free[name].memory_bytes
        room = enough and not free[name].state.filling
        return runs(name, group) and room and _lacking(free[name].held, group) <= free[name].cache_bytes

    def score(name: str, group: Sequence[MachineTarget]) -> Any:
        instances = load.get(name, 0)
        missing = _lacking(free[name].state.held | free[name].state.fetching.keys(), group)
        rank = {"Spread": (instances, missing), "Pack": (-instances, missing)}
        by_strategy = rank.get(rules.strategy or "", (instances >= share, missing, instances))
        full = bool(free[name].state.filling)
        return not runs(name, group), not fits(name, group), full, by_strategy, name

    def choose(name: str, group: Sequence[MachineTarget], remark: str = "") -> Choice:
        lacking, whole = format_bytes(_lacking(free[name].held, group)), format_bytes(_lacking(frozenset(), group))
        has = f"{rules.strategy or 'CacheAware'}: {name} lacks {lacking} of {whole}, has {load.get(name, 0)} other"
        return Choice(name, f"{has} instances{remark}")

    best = home if home in free and fits(home, machines) else min(free, key=lambda name: score(name, machines))
    if fits(best, machines) or len(machines) == 1:
        return {one.slot: choose(best, machines) for one in machines}
    choices: dict[Slot, Choice] = {}
    for one in machines:
        name = best if fits(best, [one]) else min(free, key=lambda name, one=one: score(name, [one]))  # type: ignore[misc]
        choices[one.slot] = choose(name, [one], "; no node has enough free capacity for the whole system")
        free[name].memory_bytes -= memory_of[one.slot]
        free[name].cache_bytes -= _lacking(free[name].held, [one])
        free[name].held |= one.blueprint.layers.keys()
    return choices


def _lacking(held: frozenset[Digest], machines: Sequence[MachineTarget]) -> int:
    layers = {layer.digest: layer.size_bytes for one in machines for chain in one.chains for layer in chain}
    return sum(size for digest, size in layers.items() if digest not in held)
