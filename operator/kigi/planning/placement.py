"""Placement: the node of each instance's disks. A score only ranks nodes; placement fails only without candidates."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType

from kigi.api.deployment import Placement
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes, unique_layers
from kigi.domain.observed import Slot
from kigi.domain.quantities import format_bytes
from kigi.planning.candidates import NoNode, candidate_nodes, why_no_candidates
from kigi.planning.targets import MachineTarget
from kigi.planning.view import NodeState


@dataclass(frozen=True, slots=True)
class Choice:
    """Node of one machine's disks, and the reason."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class _Demand:
    """Layers and memory that some machines need on a node."""

    layers: Mapping[Digest, Layer]
    layers_bytes: int
    memory_bytes: int

    @classmethod
    def of(cls, machines: Sequence[MachineTarget], memory_of: Mapping[Slot, int]) -> _Demand:
        layers = unique_layers(chain for machine in machines for chain in machine.chains)
        return cls(layers, total_bytes(layers.values()), sum(memory_of[machine.slot] for machine in machines))


@dataclass(slots=True)
class _Capacity:
    """Free memory and cache space of a node while this plan assigns machines to it."""

    state: NodeState
    memory_bytes: int
    cache_free_bytes: int
    held: set[Digest]
    """Layers that the node holds or fetches, or that this plan requests there."""
    cached: frozenset[Digest]
    """Layers held or fetched before this plan. CacheAware scores by them, so that a cold cluster is filled evenly."""
    instances: int = 0

    def fits(self, demand: _Demand) -> bool:
        """Whether free memory and free cache space suffice."""
        if demand.memory_bytes > self.memory_bytes:
            return False
        free = self.cache_free_bytes
        return demand.layers_bytes <= free or _missing_bytes(self.held, demand.layers) <= free

    def assign(self, demand: _Demand, instances: int) -> None:
        """Reserves the demand; free space may become negative on a node without enough of it."""
        self.memory_bytes -= demand.memory_bytes
        self.cache_free_bytes -= _missing_bytes(self.held, demand.layers)
        self.held.update(demand.layers)
        self.instances += instances


Score = tuple[bool, bool, int, int, str]


class _Ranking:
    """Nodes by their score for one demand.

    A heap whose entries are checked when they reach the top: an assignment changes the score of one node only, so an
    instance costs O(log nodes) and not O(nodes x layers).
    """

    def __init__(self, capacities: Mapping[str, _Capacity], demand: _Demand, rules: _Rules) -> None:
        self._capacities, self._demand, self._rules = capacities, demand, rules
        self._missing = {name: _missing_bytes(c.cached, demand.layers) for name, c in capacities.items()}
        self._heap = [self._score(capacity) for capacity in capacities.values()]
        heapq.heapify(self._heap)

    def best(self) -> str:
        """Name of the best node; it stays in the ranking."""
        while True:
            score = self._score(self._capacities[self._heap[0][-1]])
            if score == self._heap[0]:
                return score[-1]
            heapq.heapreplace(self._heap, score)

    def _score(self, capacity: _Capacity) -> Score:
        name = capacity.state.name
        missing = self._missing[name]
        fits = capacity.fits(self._demand)
        match self._rules.strategy:
            case "Spread":
                return (not fits, False, capacity.instances, missing, name)
            case "Pack":
                return (not fits, False, -capacity.instances, missing, name)
        return (not fits, capacity.instances >= self._rules.fair_share, missing, capacity.instances, name)


@dataclass(frozen=True, slots=True)
class _Rules:
    strategy: str
    fair_share: int
    """Instances per node if they are spread evenly; CacheAware exceeds it only if all nodes have that many."""


def place(
    unplaced: Mapping[int, Sequence[MachineTarget]],
    nodes: Mapping[str, NodeState],
    rules: Placement,
    *,
    load: Mapping[str, int],
    home: Mapping[int, str],
    memory_of: Mapping[Slot, int],
    used: Mapping[str, int] = MappingProxyType({}),
) -> dict[Slot, Choice]:
    """A node for each unplaced machine, instance by instance.

    ``load``: instances of this deployment on each node; ``home``: node of most machines of an instance, preferred
    while it is a candidate; ``memory_of``: memory of each VM in bytes; ``used``: memory in bytes that the placed
    machines of this deployment take on each node.
    Raises NoNode if no node is a candidate. O(instances x nodes x layers of the instance).
    """
    candidates = candidate_nodes(nodes, rules)
    capacities = {name: _capacity(state, load.get(name, 0), used.get(name, 0)) for name, state in candidates.items()}
    if unplaced and not capacities:
        raise NoNode(f"no node can take instance {min(unplaced)}: {why_no_candidates(nodes, rules)}")
    fair_share = -(-(sum(load.values()) + len(unplaced)) // max(len(capacities), 1))
    ranks = _Rankings(capacities, _Rules(rules.strategy, fair_share), memory_of)
    choices: dict[Slot, Choice] = {}
    for instance in sorted(unplaced):
        choices.update(_place_instance(unplaced[instance], ranks, home.get(instance)))
    return choices


def _capacity(state: NodeState, instances: int, used: int) -> _Capacity:
    cached = state.held | frozenset(state.fetching)
    return _Capacity(state, state.memory_bytes - used, state.cache_free_bytes, set(cached), cached, instances)


class _Rankings:
    """One ranking per set of layers: instances of one state share theirs."""

    def __init__(self, capacities: Mapping[str, _Capacity], rules: _Rules, memory_of: Mapping[Slot, int]) -> None:
        self.capacities, self.rules, self._memory_of = capacities, rules, memory_of
        self._rankings: dict[tuple[frozenset[Digest], int], _Ranking] = {}
        self._demands: dict[tuple[tuple[str, str], ...], _Demand] = {}

    def demand(self, machines: Sequence[MachineTarget]) -> _Demand:
        """Demand of the machines; computed once per combination of blueprints, so once for most instances."""
        key = tuple(machine.blueprint.key for machine in machines)
        if key not in self._demands:
            self._demands[key] = _Demand.of(machines, self._memory_of)
        return self._demands[key]

    def best(self, demand: _Demand) -> str:
        key = (frozenset(demand.layers), demand.memory_bytes)
        if key not in self._rankings:
            self._rankings[key] = _Ranking(self.capacities, demand, self.rules)
        return self._rankings[key].best()


def _place_instance(machines: Sequence[MachineTarget], ranks: _Rankings, home: str | None) -> dict[Slot, Choice]:
    capacities, strategy = ranks.capacities, ranks.rules.strategy
    whole = ranks.demand(machines)
    best = home if home is not None and home in capacities and capacities[home].fits(whole) else ranks.best(whole)
    if capacities[best].fits(whole) or len(machines) == 1:
        choice = Choice(best, _why(capacities[best], whole, strategy))
        capacities[best].assign(whole, instances=1)
        return {machine.slot: choice for machine in machines}
    choices: dict[Slot, Choice] = {}
    for machine in machines:
        own = ranks.demand([machine])
        name = best if capacities[best].fits(own) else ranks.best(own)
        why = _why(capacities[name], own, strategy)
        choices[machine.slot] = Choice(name, f"{why}; no node has enough free capacity for the whole system")
        capacities[name].assign(own, instances=0)
    for name in {choice.node for choice in choices.values()}:
        capacities[name].instances += 1
    return choices


def _missing_bytes(held: Set[Digest], layers: Mapping[Digest, Layer]) -> int:
    return total_bytes(missing_layers(layers, held).values())


def _why(capacity: _Capacity, demand: _Demand, strategy: str) -> str:
    missing = _missing_bytes(capacity.held, demand.layers)
    return (
        f"{strategy}: {capacity.state.name} lacks {format_bytes(missing)} of {format_bytes(demand.layers_bytes)}"
        f", has {capacity.instances} other instances"
    )
