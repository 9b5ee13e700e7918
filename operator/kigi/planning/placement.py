"""Which node each instance's disks go to; soft: a bad score never refuses, only lack of candidates does."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from kigi.api.deployment import Placement, Toleration
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes, unique_layers
from kigi.domain.quantities import format_bytes
from kigi.errors import Waiting
from kigi.planning.view import NodeState
from kigi.planning.wishes import Slot, WishedMachine


class NoNode(Waiting):
    """No node may take the machine; the message counts the causes."""

    reason = "NoNode"


@dataclass(frozen=True, slots=True)
class Choice:
    """Where one machine's disk goes, and why."""

    node: str
    why: str


@dataclass(slots=True)
class _Room:
    """What is left on a node while this pass hands it out."""

    state: NodeState
    memory_bytes: int
    held: set[Digest]
    """Held by the node, or on its way there by this pass."""
    cached: frozenset[Digest]
    """Held or fetched before this pass: what CacheAware goes by, so that a cold cluster is filled evenly."""
    instances: int = 0

    def fits(self, layers: Mapping[Digest, Layer], memory: int) -> bool:
        """Whether memory and cache have room for these layers."""
        return memory <= self.memory_bytes and _missing(self.held, layers) <= self.state.cache_free_bytes

    def take(self, layers: Mapping[Digest, Layer], memory: int, instances: int) -> None:
        """Hand it out."""
        self.memory_bytes -= memory
        self.held.update(layers)
        self.instances += instances


Score = tuple[bool, bool, int, int, str]


class _Ranking:
    """Rooms in the order of their score for one set of layers.

    A heap whose entries are checked when they come up: handing out a room changes that room's score alone, so an
    instance costs O(log nodes) and not O(nodes x layers).
    """

    def __init__(self, rooms: Mapping[str, _Room], layers: Mapping[Digest, Layer], memory: int, rules: _Rules) -> None:
        self._rooms, self._layers, self._memory, self._rules = rooms, layers, memory, rules
        self._missing = {name: _missing(room.cached, layers) for name, room in rooms.items()}
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
        fits = room.fits(self._layers, self._memory)
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
    unplaced: Mapping[int, Sequence[WishedMachine]],
    nodes: Mapping[str, NodeState],
    rules: Placement,
    *,
    load: Mapping[str, int],
    home: Mapping[int, str],
    memory_of: Mapping[Slot, int],
) -> dict[Slot, Choice]:
    """A node for each unplaced machine, instance by instance.

    ``load``: instances of this deployment that each node has already; ``home``: node that most of an instance's
    machines are on, kept when it is still a candidate; ``memory_of``: bytes that each VM asks for.
    Raises NoNode if no node is a candidate. O(instances x nodes x layers of the instance).
    """
    rooms = {name: _room(state, load.get(name, 0)) for name, state in candidate_nodes(nodes, rules).items()}
    if unplaced and not rooms:
        raise NoNode(f"no node can take instance {min(unplaced)}: {_why_none(nodes, rules)}")
    fair = -(-(sum(load.values()) + len(unplaced)) // max(len(rooms), 1))
    ranks = _Rankings(rooms, _Rules(rules.strategy, fair))
    choices: dict[Slot, Choice] = {}
    for instance in sorted(unplaced):
        choices.update(_place_instance(unplaced[instance], ranks, home.get(instance), memory_of))
    return choices


def candidate_nodes(nodes: Mapping[str, NodeState], rules: Placement) -> dict[str, NodeState]:
    """Nodes that may take a disk at all: ready, schedulable, with the driver, selected and tolerated."""
    return {name: state for name, state in sorted(nodes.items()) if _refusal(state, rules) is None}


def _room(state: NodeState, instances: int) -> _Room:
    cached = state.held | frozenset(state.fetching)
    return _Room(state, state.memory_bytes, set(cached), cached, instances)


class _Rankings:
    """One ranking for each set of layers that is asked for: instances of one state share theirs."""

    def __init__(self, rooms: Mapping[str, _Room], rules: _Rules) -> None:
        self.rooms, self.rules = rooms, rules
        self._rankings: dict[tuple[frozenset[Digest], int], _Ranking] = {}

    def best(self, layers: Mapping[Digest, Layer], memory: int) -> str:
        key = (frozenset(layers), memory)
        if key not in self._rankings:
            self._rankings[key] = _Ranking(self.rooms, layers, memory, self.rules)
        return self._rankings[key].best()


def _place_instance(
    machines: Sequence[WishedMachine], ranks: _Rankings, home: str | None, memory_of: Mapping[Slot, int]
) -> dict[Slot, Choice]:
    rooms, strategy = ranks.rooms, ranks.rules.strategy
    layers = unique_layers(machine.chain for machine in machines)
    memory = sum(memory_of[machine.slot] for machine in machines)
    keep_home = home is not None and home in rooms and rooms[home].fits(layers, memory)
    best = home if home is not None and keep_home else ranks.best(layers, memory)
    if rooms[best].fits(layers, memory) or len(machines) == 1:
        choice = Choice(best, _why(rooms[best], layers, strategy))
        rooms[best].take(layers, memory, instances=1)
        return {machine.slot: choice for machine in machines}
    choices: dict[Slot, Choice] = {}
    for machine in machines:
        own, need = unique_layers([machine.chain]), memory_of[machine.slot]
        name = best if rooms[best].fits(own, need) else ranks.best(own, need)
        why = f"{_why(rooms[name], own, strategy)}; no node has room for the whole system"
        choices[machine.slot] = Choice(name, why)
        rooms[name].take(own, need, instances=0)
    for name in {choice.node for choice in choices.values()}:
        rooms[name].instances += 1
    return choices


def _missing(held: Set[Digest], layers: Mapping[Digest, Layer]) -> int:
    return total_bytes(missing_layers(layers, held).values())


def _why(room: _Room, layers: Mapping[Digest, Layer], strategy: str) -> str:
    total = total_bytes(layers.values())
    missing = _missing(room.held, layers)
    return (
        f"{strategy}: {room.state.name} lacks {format_bytes(missing)} of {format_bytes(total)}"
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
    if any(state.labels.get(key) != value for key, value in rules.node_selector.items()):
        return "not matched by spec.placement.nodeSelector"
    if not all(_tolerated(taint, rules.tolerations) for taint in state.taints):
        return "with a taint that spec.placement.tolerations does not tolerate"
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


def _why_none(nodes: Mapping[str, NodeState], rules: Placement) -> str:
    causes = Counter(_refusal(state, rules) for state in nodes.values())
    return "; ".join(f"{count} nodes {cause}" for cause, count in sorted(causes.items(), key=str)) or "there is no node"
