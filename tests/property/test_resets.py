"""Requests come, go and are carried out by an operator that stops after any step: each resets each machine once."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.worlds import World, deployment_spec

instances = st.sets(st.sampled_from(["0", "1", "9"]), max_size=2)
machines = st.sets(st.sampled_from(["db", "web", "none"]), max_size=2)
changes = st.one_of(
    st.builds(lambda name: {"systemRef": {"name": name}}, st.sampled_from(["a", "b", "c"])),
    st.builds(lambda count: {"replicas": count}, st.integers(0, 3)),
    st.builds(lambda token: {"resetToken": token}, st.sampled_from([None, "1", "2"])),
    st.builds(lambda power: {"powerState": power}, st.sampled_from(["On", "Off"])),
    st.builds(
        lambda policy: {"updateStrategy": {"onSwitch": policy}}, st.sampled_from(["ReplaceAll", "ReplaceChanged"])
    ),
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.tuples(instances, machines)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("change"), changes),
        st.tuples(st.just("step"), st.integers(1, 5)),
        st.tuples(st.just("move"), st.integers(0, 20)),
        st.tuples(st.just("cache"), st.none()),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("freeze"), st.none()),
    ),
    max_size=40,
)


def run(world: World, script: list[tuple[str, Any]]) -> None:
    for kind, argument in script:
        match kind:
            case "request":
                world.request(*argument)
            case "delete":
                if world.requests:
                    del world.requests[argument % len(world.requests)]
            case "change":
                world.change(**argument)
            case "step":
                for step in world.plan().steps[:argument]:
                    world.apply(step)
            case "move":
                if moves := list(world.moves()):
                    world.move(*moves[argument % len(moves)])
            case "cache":
                world.node_cache_pass()
            case "freeze":
                world.stand_still()
            case _:
                world.settle()
        world.check_invariants()


def world_of(state: str, replicas: int) -> World:
    return World(deployment_spec(state, replicas=replicas))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["a", "b"]), actions)
def test_requests_come_to_an_end_and_the_result_stays(state: str, script: list[tuple[str, Any]]) -> None:
    world = world_of(state, 2)
    run(world, script)
    world.settle()
    world.check_settled()
    made = world.overlay_times()
    world.settle()
    assert (world.overlay_times(), world.plan().steps) == (made, ())


@settings(max_examples=50, deadline=None)
@given(actions, instances, machines)
def test_an_accepted_request_replaces_what_it_names_and_a_refused_one_nothing(
    script: list[tuple[str, Any]], named: set[str], of: set[str]
) -> None:
    world = world_of("a", 2)
    run(world, [action for action in script if action[0] != "freeze"])
    world.change(powerState="On", replicas=2, systemRef={"name": "a"})
    world.settle()
    before = world.overlay_times()
    request = world.request(named, of)
    accepted = all(request in world.view(name).resets for name in ("0", "1") if request.concerns(name))
    assert accepted == ("9" not in named and "none" not in of) or named == {"9"}
    world.settle()
    after = world.overlay_times()
    renewed = {slot for slot in after if after[slot] != before[slot]}
    assert renewed == ({slot for slot in after if request.concerns(*slot)} if accepted else set())


@settings(max_examples=50, deadline=None)
@given(actions, st.integers(0, 8), st.booleans())
def test_deleting_every_request_at_any_moment_resets_nothing(
    script: list[tuple[str, Any]], steps: int, frozen: bool
) -> None:
    world = world_of("a", 2)
    run(world, script)
    world.settle()
    if frozen:
        world.stand_still()
    world.request()
    for step in world.plan().steps[:steps]:
        world.apply(step)
    decided = {volume.manifest["metadata"]["name"] for volume in world.volumes.values()}
    world.requests.clear()
    for _ in range(2):
        placed = [one for name in world.instances for one in world.plan_of(name).placed]
        assert {one.disks[0].volume for one in placed} <= decided
        world.settle()
    world.check_settled()
