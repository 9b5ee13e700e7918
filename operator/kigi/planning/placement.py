"""Which node each instance's disks go to; soft: a bad score never refuses, only lack of candidates does."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType

from kigi.api.deployment import Placement, Toleration
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes, unique_layers
from kigi.domain.observed import Slot
from kigi.domain.quantities import format_bytes
from kigi.errors import Waiting
from kigi.planning.targets import MachineTarget
from kigi.planning.view import NodeState


class NoNode(Waiting):
    """No node may take the machine; the message counts the causes."""

    reason = "NoNode"


@dataclass(frozen=True, slots=True)
class Choice:
    """Where one machine's disk goes, and why."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class _Need:
    """What some machines take on a node."""

    layers: Mapping[Digest, Layer]
    layers_bytes: int
    memory: int

    @classmethod
    def of(cls, machines: Sequence[MachineTarget], memory_of: Mapping[Slot, int]) -> _Need:
        layers = unique_layers(chain for machine in machines for chain in machine.chains)
        return cls(layers, total_bytes(layers.values()), sum(memory_of[machine.slot] for machine in machines))


@dataclass(slots=True)
class _Room:
    """What is left on a node while this pass hands it out."""

    state: NodeState
    memory_bytes: int
    cache_free_bytes: int
    held: set[Digest]
    """Held by the node, or on its way there by this pass."""
    cached: frozenset[Digest]
    """Held or fetched before this pass: what CacheAware goes by, so that a cold cluster is filled evenly."""
    instances: int = 0

    def fits(self, need: _Need) -> bool:
        """Whether memory and cache have room for it."""
        if need.memory > self.memory_bytes:
            return False
        free = self.cache_free_bytes
        return need.layers_bytes <= free or _missing(self.held, need.layers) <= free

    def take(self, need: _Need, instances: int) -> None:
        """Hand it out; below zero where no node has room, so that what fits only gets less."""
        self.memory_bytes -= need.memory
        self.cache_free_bytes -= _missing(self.held, need.layers)
        self.held.update(need.layers)
        self.instances += instances


Score = tuple[bool, bool, int, int, str]


class _Ranking:
    """Rooms in the order of their score for one set of layers.

    A heap whose entries are checked when they come up: handing out a room changes that room's score alone, so an
    instance costs O(log nodes) and not O(nodes x layers).
    """

    def __init__(self, rooms: Mapping[str, _Room], need: _Need, rules: _Rules) -> None:
        self._rooms, self._need, self._rules = rooms, need, rules
        self._missing = {name: _missing(room.cached, need.layers) for name, room in rooms.items()}
        self._heap = [self._score(room) for room in rooms.values()]
        heapq.heapify(self._heap)

    def best(self) -> str:
        """Name of the best room; it stays in the ranking."""
        while True:
            score = self._score(self._rooms[self._heap[0][-1]])
            if score == self._heap[0]:
                return score[-1]
            heapq.heapreplace(self._heap, score)

    def _score(self, room: _Room) -> Score:
        missing = self._missing[room.state.name]
        fits = room.fits(self._need)
        match self._rules.strategy:
            case "Spread":
                return (not fits, False, room.instances, missing, room.state.name)
            case "Pack":
                return (not fits, False, -room.instances, missing, room.state.name)
        return (not fits, room.instances >= self._rules.fair, missing, room.instances, room.state.name)


@dataclass(frozen=True, slots=True)
class _Rules:
    strategy: str
    fair: int
    """Instances that each node has when they are spread evenly; CacheAware goes beyond it only where it must."""


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

    ``load``: instances of this deployment that each node has already; ``home``: node that most of an instance's
    machines are on, kept when it is still a candidate; ``memory_of``: bytes that each VM asks for; ``used``: bytes
    of memory that the machines of this deployment which are placed already take of each node.
    Raises NoNode if no node is a candidate. O(instances x nodes x layers of the instance).
    """
    candidates = candidate_nodes(nodes, rules)
    rooms = {name: _room(state, load.get(name, 0), used.get(name, 0)) for name, state in candidates.items()}
    if unplaced and not rooms:
        raise NoNode(f"no node can take instance {min(unplaced)}: {why_no_candidates(nodes, rules)}")
    fair = -(-(sum(load.values()) + len(unplaced)) // max(len(rooms), 1))
    ranks = _Rankings(rooms, _Rules(rules.strategy, fair), memory_of)
    choices: dict[Slot, Choice] = {}
    for instance in sorted(unplaced):
        choices.update(_place_instance(unplaced[instance], ranks, home.get(instance)))
    return choices


def candidate_nodes(nodes: Mapping[str, NodeState], rules: Placement) -> dict[str, NodeState]:
    """Nodes that may take a disk at all: ready, schedulable, with the driver, selected and tolerated."""
    return {name: state for name, state in sorted(nodes.items()) if _refusal(state, rules) is None}


def _room(state: NodeState, instances: int, used: int) -> _Room:
    cached = state.held | frozenset(state.fetching)
    return _Room(state, state.memory_bytes - used, state.cache_free_bytes, set(cached), cached, instances)


class _Rankings:
    """One ranking for each set of layers that is asked for: instances of one state share theirs."""

    def __init__(self, rooms: Mapping[str, _Room], rules: _Rules, memory_of: Mapping[Slot, int]) -> None:
        self.rooms, self.rules, self._memory_of = rooms, rules, memory_of
        self._rankings: dict[tuple[frozenset[Digest], int], _Ranking] = {}
        self._needs: dict[tuple[tuple[int, int, int], ...], _Need] = {}

    def need(self, machines: Sequence[MachineTarget]) -> _Need:
        """What they take; machines of one state share their chains, so most instances ask for the same."""
        key = tuple((id(machine.chain), id(machine.disks), self._memory_of[machine.slot]) for machine in machines)
        if key not in self._needs:
            self._needs[key] = _Need.of(machines, self._memory_of)
        return self._needs[key]

    def best(self, need: _Need) -> str:
        key = (frozenset(need.layers), need.memory)
        if key not in self._rankings:
            self._rankings[key] = _Ranking(self.rooms, need, self.rules)
        return self._rankings[key].best()


def _place_instance(machines: Sequence[MachineTarget], ranks: _Rankings, home: str | None) -> dict[Slot, Choice]:
    rooms, strategy = ranks.rooms, ranks.rules.strategy
    whole = ranks.need(machines)
    best = home if home is not None and home in rooms and rooms[home].fits(whole) else ranks.best(whole)
    if rooms[best].fits(whole) or len(machines) == 1:
        choice = Choice(best, _why(rooms[best], whole, strategy))
        rooms[best].take(whole, instances=1)
        return {machine.slot: choice for machine in machines}
    choices: dict[Slot, Choice] = {}
    for machine in machines:
        own = ranks.need([machine])
        name = best if rooms[best].fits(own) else ranks.best(own)
        choices[machine.slot] = Choice(
            name, f"{_why(rooms[name], own, strategy)}; no node has room for the whole system"
        )
        rooms[name].take(own, instances=0)
    for name in {choice.node for choice in choices.values()}:
        rooms[name].instances += 1
    return choices


def _missing(held: Set[Digest], layers: Mapping[Digest, Layer]) -> int:
    return total_bytes(missing_layers(layers, held).values())


def _why(room: _Room, need: _Need, strategy: str) -> str:
    missing = _missing(room.held, need.layers)
    return (
        f"{strategy}: {room.state.name} lacks {format_bytes(missing)} of {format_bytes(need.layers_bytes)}"
        f", has {room.instances} other instances"
    )


def _refusal(state: NodeState, rules: Placement) -> str | None:
    if not state.ready:
        return "not ready"
    if not state.schedulable:
        return "cordoned"
    if not state.has_driver:
        return "without the disk.kigi.dev driver"
    if not state.cache_alive:
        return "whose cache daemon is silent"
    return _mismatch(state, rules)


def is_selected(state: NodeState, rules: Placement) -> bool:
    """Whether a node is meant, be it away or cordoned at the moment."""
    return state.has_driver and _mismatch(state, rules) is None


def _mismatch(state: NodeState, rules: Placement) -> str | None:
    if any(state.labels.get(key) != value for key, value in rules.node_selector.items()):
        return "not matched by nodeSelector"
    if not all(_tolerated(taint, rules.tolerations) for taint in state.taints):
        return "with a taint that tolerations does not tolerate"
    return None


def _tolerated(taint: tuple[str, str, str], tolerations: Sequence[Toleration]) -> bool:
    key, value, effect = taint
    if effect == "PreferNoSchedule":
        return True
    return any(
        (t.key is None or t.key == key)
        and (t.effect is None or t.effect == effect)
        and (t.operator == "Exists" or (t.value or "") == value)
        for t in tolerations
    )


def why_no_candidates(nodes: Mapping[str, NodeState], rules: Placement) -> str:
    """The causes, each with its number of nodes."""
    causes = Counter(_refusal(state, rules) for state in nodes.values())
    return "; ".join(f"{count} nodes {cause}" for cause, count in sorted(causes.items(), key=str)) or "there is no node"
