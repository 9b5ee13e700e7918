"""Laws of placement over random nodes and machines."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kigi.api.deployment import Placement
from kigi.domain.guests import Guest
from kigi.domain.layers import Digest, Layer
from kigi.domain.systems import ResolvedMachine
from kigi.planning.candidates import ARCHITECTURE_LABEL, candidate_nodes, is_candidate, is_selected
from kigi.planning.placement import Choice, place
from kigi.planning.targets import Blueprint, MachineTarget
from kigi.planning.view import NodeState
from tests.support.placements import place_all, place_by_force
from tests.support.worlds import digest

LAYERS = [Layer(digest(f"layer{number}"), 10 * (number + 1), 512) for number in range(4)]
rules = st.builds(Placement, strategy=st.sampled_from(["CacheAware", "Spread", "Pack"]))


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, NodeState]:
    """One to four nodes, of which some are not candidates."""
    names = [f"n{number}" for number in range(draw(st.integers(1, 4)))]
    held = st.sets(st.sampled_from([layer.digest for layer in LAYERS]))
    return {
        name: NodeState(
            name,
            ready=draw(st.sampled_from([True, True, True, False])),
            schedulable=draw(st.sampled_from([True, True, True, False])),
            memory_bytes=draw(st.integers(0, 5)),
            held=frozenset(draw(held)),
            cache_free_bytes=draw(st.integers(0, 120)),
            filling=frozenset(draw(st.sampled_from([(), (), (), ("volume",)]))),
        )
        for name in names
    }


@st.composite
def instances(draw: st.DrawFn, most_machines: int = 3) -> dict[str, list[MachineTarget]]:
    """Up to five instances of two states, whose machines are on different layers."""
    found: dict[str, list[MachineTarget]] = {}
    for instance in map(str, range(draw(st.integers(1, 5)))):
        state = draw(st.integers(0, 1))
        count = 1 + state % most_machines
        machines = []
        for number in range(count):
            chain = (LAYERS[0], LAYERS[1 + (state + number) % 3])
            blueprint = Blueprint.of(f"s{state}", ResolvedMachine(f"m{number}", "i", chain), Placement(), "Plugin", "")
            machines.append(MachineTarget(instance, blueprint, f"dep-{instance}-m{number}", True, (None, None, None)))
        found[instance] = machines
    return found


def chosen(unplaced: dict[str, list[MachineTarget]], states: dict[str, NodeState], placement: Placement) -> Any:
    memory = {target.slot: 1 for members in unplaced.values() for target in members}
    return place_all(unplaced, states, placement, memory_of=memory)


def fits(state: NodeState, used: int, requested: set[Digest], members: list[MachineTarget]) -> bool:
    """Whether all these machines fit on the node beside those that were placed there before."""
    if state.filling or used + len(members) > state.memory_bytes:
        return False
    held = state.held | requested
    layers = {layer.digest: layer for target in members for chain in target.chains for layer in chain}
    new = sum(layer.size_bytes for name, layer in layers.items() if name not in held)
    taken = sum(layer.size_bytes for layer in LAYERS if layer.digest in requested - state.held)
    return new <= state.cache_free_bytes - taken


@given(instances(), nodes(), rules)
def test_every_machine_gets_a_candidate_node(
    unplaced: dict[str, list[MachineTarget]], states: dict[str, NodeState], placement: Placement
) -> None:
    candidates = {state.name: state for state in candidate_nodes(states, placement)}
    if not candidates:
        return
    choices = chosen(unplaced, states, placement)
    assert choices.keys() == {target.slot for members in unplaced.values() for target in members}
    assert {choice.node for choice in choices.values()} <= candidates.keys()
    assert all(is_selected(states[choice.node], placement) for choice in choices.values())


@given(instances(), nodes(), rules)
def test_an_instance_exceeds_a_node_only_if_it_fits_on_none(
    unplaced: dict[str, list[MachineTarget]], states: dict[str, NodeState], placement: Placement
) -> None:
    candidates = {state.name: state for state in candidate_nodes(states, placement)}
    if not candidates:
        return
    choices = chosen(unplaced, states, placement)
    used: Counter[str] = Counter()
    requested: dict[str, set[Digest]] = {name: set() for name in candidates}
    for instance, members in sorted(unplaced.items()):
        hosts = {choices[target.slot].node for target in members}
        fitting = {name for name, state in candidates.items() if fits(state, used[name], requested[name], members)}
        if fitting:
            assert len(hosts) == 1, f"instance {instance} is split although it fits on {fitting}"
            assert hosts <= fitting
        for target in members:
            node = choices[target.slot].node
            used[node] += 1
            requested[node] |= target.blueprint.layers.keys()


@given(instances(), nodes(), rules, st.randoms())
def test_the_order_of_nodes_and_instances_does_not_matter(
    unplaced: dict[str, list[MachineTarget]], states: dict[str, NodeState], placement: Placement, random: Any
) -> None:
    if not candidate_nodes(states, placement):
        return
    shuffled_nodes = dict(random.sample(list(states.items()), len(states)))
    shuffled = dict(random.sample(list(unplaced.items()), len(unplaced)))
    before: dict[Any, Choice] = chosen(unplaced, states, placement)
    assert chosen(shuffled, shuffled_nodes, placement) == before


@given(instances(), nodes())
def test_pack_uses_as_few_nodes_as_spread_or_fewer(
    unplaced: dict[str, list[MachineTarget]], states: dict[str, NodeState]
) -> None:
    roomy = {
        name: NodeState(name, memory_bytes=1000, cache_free_bytes=1000, held=state.held)
        for name, state in states.items()
    }
    used = {
        strategy: {choice.node for choice in chosen(unplaced, roomy, Placement(strategy=strategy)).values()}
        for strategy in ("Pack", "Spread")
    }
    assert len(used["Pack"]) == 1
    assert len(used["Spread"]) == min(len(unplaced), len(roomy))


@st.composite
def crowded_nodes(draw: st.DrawFn) -> dict[str, NodeState]:
    """Up to eight nodes that differ in everything that placement reads."""
    digests = st.frozensets(st.sampled_from([layer.digest for layer in LAYERS]))
    labels = st.sampled_from([{}, {ARCHITECTURE_LABEL: "amd64"}, {ARCHITECTURE_LABEL: "arm64"}])
    return {
        name: NodeState(
            name,
            schedulable=draw(st.sampled_from([True, True, False])),
            labels=draw(labels),
            memory_bytes=draw(st.sampled_from([0, 2, 4, 8, 100])),
            held=draw(digests),
            fetching=dict.fromkeys(draw(digests), 1),
            requested=draw(digests),
            cache_free_bytes=draw(st.sampled_from([0, 30, 60, 1000, 1000])),
        )
        for name in draw(st.permutations([f"n{number}" for number in range(draw(st.integers(1, 8)))]))
    }


@st.composite
def machines(draw: st.DrawFn) -> list[MachineTarget]:
    """Up to four machines, each for any architecture or for one."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        chain = tuple(draw(st.lists(st.sampled_from(LAYERS), min_size=1, unique=True)))
        guest = Guest(draw(st.sampled_from([None, None, "amd64", "arm64"])))
        blueprint = Blueprint.of("s", ResolvedMachine(f"m{number}", "i", chain, guest=guest), Placement(), "Plugin", "")
        found.append(MachineTarget("1", blueprint, f"dep-1-m{number}", True))
    return found


counts = st.dictionaries(st.sampled_from([f"n{number}" for number in range(8)]), st.integers(0, 3), max_size=4)


@given(machines(), crowded_nodes(), rules, counts, counts, st.sampled_from([None, "n0", "n1", "n2", "lost"]))
def test_every_choice_is_that_of_a_comparison_of_all_nodes(
    members: list[MachineTarget],
    states: dict[str, NodeState],
    placement: Placement,
    load: dict[str, int],
    used: dict[str, int],
    home: str | None,
) -> None:
    if not any(is_candidate(state, placement) for state in states.values()):
        return
    memory = {target.slot: 1 + number % 2 for number, target in enumerate(members)}
    expected = place_by_force(members, states, placement, memory_of=memory, load=load, home=home, used=used)
    assert place(members, states, placement, memory_of=memory, load=load, home=home, used=used) == expected
