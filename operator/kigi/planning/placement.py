"""Placement: the node of an instance's disks. A score only ranks nodes; placement fails only without candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import heapify, heappop
from operator import attrgetter
from types import MappingProxyType

from kigi.api.placement import Placement
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes
from kigi.domain.observed import Slot
from kigi.domain.quantities import format_bytes
from kigi.planning.candidates import NoNode, candidate_nodes, is_candidate, runs, why_no_candidates
from kigi.planning.targets import MachineTarget
from kigi.planning.view import NodeState

DEFAULT_STRATEGY = "CacheAware"


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
    architectures: frozenset[str]

    @classmethod
    def of(cls, machines: Sequence[MachineTarget], memory_of: Mapping[Slot, int]) -> _Demand:
        layers: dict[Digest, Layer] = {}
        for machine in machines:
            layers.update(machine.blueprint.layers)
        architectures = frozenset(filter(None, (machine.architecture for machine in machines)))
        memory_bytes = sum(memory_of[machine.slot] for machine in machines)
        return cls(layers, total_bytes(layers.values()), memory_bytes, architectures)

    def missing_bytes(self, held: Set[Digest]) -> int:
        """Bytes of the layers that are not held."""
        return total_bytes(missing_layers(self.layers, held).values())


@dataclass(slots=True)
class _Capacity:
    """Free memory and cache space of a node while this plan assigns machines to it."""

    state: NodeState
    memory_bytes: int
    cache_free_bytes: int
    assigned: frozenset[Digest] = frozenset()

    @property
    def held(self) -> frozenset[Digest]:
        """Layers that the node holds or fetches, or that are about to be requested there."""
        return self.state.cached | self.state.requested | self.assigned

    def runs(self, demand: _Demand) -> bool:
        """Whether the node can run the guests of all these machines."""
        return all(runs(architecture, self.state) for architecture in demand.architectures)

    def fits(self, demand: _Demand) -> bool:
        """Whether it can run the guests, free memory and free cache space suffice, and no overlay fills its disk."""
        if self.state.filling or demand.memory_bytes > self.memory_bytes or not self.runs(demand):
            return False
        free = self.cache_free_bytes
        return demand.layers_bytes <= free or demand.missing_bytes(self.held) <= free

    def assign(self, demand: _Demand) -> None:
        """Reserves the demand; free space may become negative on a node without enough of it."""
        self.memory_bytes -= demand.memory_bytes
        self.cache_free_bytes -= demand.missing_bytes(self.held)
        self.assigned |= demand.layers.keys()


class _Nodes:
    """The candidates of an instance. A score is cheap; whether the demand fits is asked in the order of the scores."""

    def __init__(
        self, candidates: Sequence[NodeState], strategy: str, load: Mapping[str, int], used: Mapping[str, int]
    ) -> None:
        self._candidates, self._strategy, self._load, self._used = candidates, strategy, load, used
        self._capacities: dict[str, _Capacity] = {}

    def capacity(self, state: NodeState) -> _Capacity:
        """What is left of the node."""
        if state.name not in self._capacities:
            memory_bytes = state.memory_bytes - self._used.get(state.name, 0)
            self._capacities[state.name] = _Capacity(state, memory_bytes, state.cache_free_bytes)
        return self._capacities[state.name]

    def best(self, demand: _Demand) -> _Capacity:
        """The first node that the demand fits on.

        If there is none, the first that can run its guests, rather one whose disk is not being filled; or any.
        """
        ranked: list[_Capacity] = []
        for state in self._by_score(demand):
            ranked.append(self.capacity(state))
            if ranked[-1].fits(demand):
                return ranked[-1]
        able = [capacity for capacity in ranked if capacity.runs(demand)] or ranked
        return next((capacity for capacity in able if not capacity.state.filling), able[0])

    def why(self, capacity: _Capacity, demand: _Demand) -> str:
        """Why the demand is placed on that node."""
        name, missing = capacity.state.name, demand.missing_bytes(capacity.held)
        return (
            f"{self._strategy}: {name} lacks {format_bytes(missing)} of {format_bytes(demand.layers_bytes)}"
            f", has {self._load.get(name, 0)} other instances"
        )

    def _by_score(self, demand: _Demand) -> Iterator[NodeState]:
        """The nodes, the best score first. O(nodes) for the first one, on which the demand fits most often.

        CacheAware scores by the layers that nodes held or fetched before this plan, so that a cold cluster is filled
        evenly, and exceeds the fair share of a node only if all nodes have that many instances.
        """
        missing = {held: demand.missing_bytes(held) for held in {node.cached for node in self._candidates}}
        yield self._first(missing)
        load = self._load.get
        match self._strategy:
            case "Spread":
                scores = [(False, load(n.name, 0), missing[n.cached], n.name, n) for n in self._candidates]
            case "Pack":
                scores = [(False, -load(n.name, 0), missing[n.cached], n.name, n) for n in self._candidates]
            case _:
                share = self._share()
                scores = [((i := load(n.name, 0)) >= share, missing[n.cached], i, n.name, n) for n in self._candidates]
        heapify(scores)
        heappop(scores)
        while scores:
            yield heappop(scores)[-1]

    def _first(self, missing: Mapping[frozenset[Digest], int]) -> NodeState:
        """The node with the best score, found without a score for each node."""
        match self._strategy:
            case "Spread":
                best = _lacking_least(self._least_loaded(self._candidates), missing)
            case "Pack":
                most = max(self._load.get(node.name, 0) for node in self._candidates)
                best = [node for node in self._candidates if self._load.get(node.name, 0) == most]
                best = _lacking_least(best, missing)
            case _:
                share = self._share()
                full = {name for name, instances in self._load.items() if instances >= share}
                below = [node for node in self._candidates if node.name not in full]
                best = self._least_loaded(_lacking_least(below or self._candidates, missing))
        return min(best, key=attrgetter("name"))

    def _share(self) -> int:
        """Instances per node if all nodes had the same number."""
        return -(-(sum(self._load.values()) + 1) // len(self._candidates))

    def _least_loaded(self, nodes: Sequence[NodeState]) -> Sequence[NodeState]:
        loaded = {name for name, instances in self._load.items() if instances}
        if idle := [node for node in nodes if node.name not in loaded]:
            return idle
        least = min(self._load[node.name] for node in nodes)
        return [node for node in nodes if self._load[node.name] == least]


def _lacking_least(nodes: Sequence[NodeState], missing: Mapping[frozenset[Digest], int]) -> Sequence[NodeState]:
    if len(missing) == 1:
        return nodes
    least = min(missing[held] for held in {node.cached for node in nodes})
    return [node for node in nodes if missing[node.cached] == least]


def place(
    machines: Sequence[MachineTarget],
    nodes: Mapping[str, NodeState],
    rules: Placement,
    *,
    memory_of: Mapping[Slot, int],
    load: Mapping[str, int] = MappingProxyType({}),
    home: str | None = None,
    used: Mapping[str, int] = MappingProxyType({}),
) -> dict[Slot, Choice]:
    """A node for each of an instance's machines that have none.

    ``memory_of``: memory of each VM in bytes; ``load``: other instances of this deployment on each node; ``home``: node
    of most machines of the instance, preferred while it is a candidate; ``used``: memory in bytes that its placed
    machines take on each node.
    Each machine must have a candidate of its architecture. Raises NoNode if no node is a candidate.
    O(nodes + layers of the instance), and O(machines x nodes) if no node has capacity for all machines.
    """
    candidates = candidate_nodes(nodes, rules)
    if not candidates:
        raise NoNode(f"no node can take instance {machines[0].instance}: {why_no_candidates(nodes, rules)}")
    ranked = _Nodes(candidates, rules.strategy or DEFAULT_STRATEGY, load, used)
    whole = _Demand.of(machines, memory_of)
    at_home = nodes.get(home) if home is not None else None
    best = ranked.capacity(at_home) if is_candidate(at_home, rules) else None
    if best is None or not best.fits(whole):
        best = ranked.best(whole)
    if best.fits(whole) or len(machines) == 1:
        choice = Choice(best.state.name, ranked.why(best, whole))
        return {machine.slot: choice for machine in machines}
    choices: dict[Slot, Choice] = {}
    for machine in machines:
        own = _Demand.of([machine], memory_of)
        capacity = best if best.fits(own) else ranked.best(own)
        why = f"{ranked.why(capacity, own)}; no node has enough free capacity for the whole system"
        choices[machine.slot] = Choice(capacity.state.name, why)
        capacity.assign(own)
    return choices
