"""Laws of planning; the operator may die after each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kigi.api.deployment import SystemDeploymentSpec, SystemDeploymentStatus
from kigi.planning.deployment import plan_deployment
from kigi.status.deployments import deployment_status
from tests.support.worlds import World

states = st.sampled_from(["a", "b", "c"])
tokens = st.sampled_from([None, "1", "2"])


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(
        st.sampled_from(["system", "reset", "replicas", "running", "overrides", "policy", "placement", "isolation"])
    )
    match kind:
        case "system":
            return {"system": {"name": draw(states)}}
        case "reset":
            return {"reset": draw(tokens)}
        case "replicas":
            return {"replicas": draw(st.integers(0, 3))}
        case "running":
            return {"running": draw(st.booleans())}
        case "policy":
            return {"switchPolicy": draw(st.sampled_from(["ResetAll", "KeepUnchanged"]))}
        case "isolation":
            return {"isolation": draw(st.sampled_from(["None", "Instances"]))}
        case "placement":
            return {"placement": {"strategy": draw(st.sampled_from(["CacheAware", "Spread", "Pack"]))}}
    override: dict[str, Any] = {"instance": draw(st.integers(0, 2)), "reset": draw(tokens)}
    if draw(st.booleans()):
        override["system"] = {"name": draw(states)}
    if draw(st.booleans()):
        override["running"] = draw(st.booleans())
    return {"overrides": [{k: v for k, v in override.items() if v is not None}]}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("change"), changes()),
        st.tuples(st.just("step"), st.integers(0, 5)),
        st.tuples(st.just("move"), st.integers(0, 20)),
        st.tuples(st.just("cache"), st.none()),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("edit"), st.tuples(states, st.sampled_from(["512Mi", "2Gi"]))),
    ),
    max_size=60,
)


def run(world: World, script: list[tuple[str, Any]]) -> None:
    for kind, argument in script:
        if kind == "change":
            world.change(**argument)
        elif kind == "edit":
            world.edit(argument[0], "web", memory=argument[1])
        elif kind == "settle":
            world.settle()
        elif kind == "step":
            for step in world.plan().steps[: argument + 1]:
                world.apply(step)
                world.check_invariants()
        elif kind == "move":
            moves = list(world.moves())
            if moves:
                world.move(*moves[argument % len(moves)])
        else:
            world.node_cache_pass()
        world.check_invariants()


@settings(max_examples=300, deadline=None)
@given(states, st.integers(0, 3), actions)
def test_any_history_ends_in_the_desired_state_without_leftovers(
    state: str, replicas: int, script: list[tuple[str, Any]]
) -> None:
    world = World(SystemDeploymentSpec.model_validate({"system": {"name": state}, "replicas": replicas}))
    run(world, script)
    world.settle()
    world.check_settled()
    assert plan_deployment(world.view()).steps == ()


@settings(max_examples=150, deadline=None)
@given(states, st.integers(1, 2), actions)
def test_deletion_at_any_moment_leaves_nothing_behind(state: str, replicas: int, script: list[tuple[str, Any]]) -> None:
    world = World(SystemDeploymentSpec.model_validate({"system": {"name": state}, "replicas": replicas}))
    run(world, script)
    world.deleting = True
    world.settle()
    world.gone = world.gone or not world.finalizer
    world.check_settled()


@settings(max_examples=100, deadline=None)
@given(states, actions, st.sampled_from(["n1", "n2"]))
def test_machines_of_a_lost_node_start_on_another(state: str, script: list[tuple[str, Any]], lost: str) -> None:
    world = World(SystemDeploymentSpec.model_validate({"system": {"name": state}, "replicas": 2}))
    run(world, script)
    world.lose_node(lost)
    world.settle()
    world.check_settled()


@settings(max_examples=100, deadline=None)
@given(states, actions, actions, st.sampled_from(["n1", "n2"]), st.booleans())
def test_a_returning_node_loses_its_old_overlays(
    state: str, script: list[tuple[str, Any]], meanwhile: list[tuple[str, Any]], lost: str, deleted: bool
) -> None:
    world = World(SystemDeploymentSpec.model_validate({"system": {"name": state}, "replicas": 2}))
    run(world, script)
    world.lose_node(lost)
    run(world, meanwhile)
    world.return_node(lost)
    world.deleting = deleted
    world.settle()
    world.gone = world.gone or not world.finalizer
    world.check_settled()


@settings(max_examples=100, deadline=None)
@given(states, st.integers(1, 2), actions)
def test_a_reset_gives_every_machine_an_overlay_made_after_it(
    state: str, replicas: int, script: list[tuple[str, Any]]
) -> None:
    world = World(SystemDeploymentSpec.model_validate({"system": {"name": state}, "replicas": replicas}))
    run(world, script)
    world.change(reset="fresh", running=True, overrides=[])
    asked = world.clock
    world.settle()
    assert all(made > asked for made in world.overlay_times().values())


@settings(max_examples=100, deadline=None)
@given(states, actions)
def test_without_a_change_no_machine_is_touched(state: str, script: list[tuple[str, Any]]) -> None:
    world = World(SystemDeploymentSpec.model_validate({"system": {"name": state}, "replicas": 2}))
    run(world, script)
    world.settle()
    before = (world.overlay_times(), {name: vmi.uid for name, vmi in world.vmis.items()})
    world.settle()
    world.change(placement={"strategy": "Spread"}, prefetch=[{"name": "c"}])
    world.settle()
    assert before == (world.overlay_times(), {name: vmi.uid for name, vmi in world.vmis.items()})


@settings(max_examples=50, deadline=None)
@given(states, states)
def test_each_node_moves_each_layer_once(first: str, second: str) -> None:
    world = World(SystemDeploymentSpec.model_validate({"system": {"name": first}, "replicas": 3}))
    world.settle()
    world.change(system={"name": second})
    world.settle()
    for moved in world.moved.values():
        assert len(moved) == len(set(moved))


def unfinished(state: str, replicas: int, script: list[tuple[str, Any]]) -> World:
    """A world in the middle of any history, isolated instances included."""
    fields = {"system": {"name": state}, "replicas": replicas, "isolation": "Instances"}
    world = World(SystemDeploymentSpec.model_validate(fields))
    run(world, script)
    return world


@settings(max_examples=30, deadline=None)
@given(states, st.integers(1, 3), actions, st.randoms())
def test_the_order_of_listings_does_not_change_the_plan(
    state: str, replicas: int, script: list[tuple[str, Any]], random: Any
) -> None:
    view = unfinished(state, replicas, script).view()
    lists = {name: getattr(view, name) for name in ("volumes", "claims", "machines", "policies")}
    shuffled = {name: tuple(random.sample(found, len(found))) for name, found in lists.items()}
    nodes = dict(random.sample(list(view.nodes.items()), len(view.nodes)))
    other = plan_deployment(replace(view, nodes=nodes, **shuffled))
    assert sorted(map(repr, other.steps)) == sorted(map(repr, plan_deployment(view).steps))
    assert [placed.node for placed in other.placed] == [placed.node for placed in plan_deployment(view).placed]


@settings(max_examples=50, deadline=None)
@given(states, st.integers(1, 3), actions)
def test_equal_views_give_equal_plans(state: str, replicas: int, script: list[tuple[str, Any]]) -> None:
    world = unfinished(state, replicas, script)
    first, second = plan_deployment(world.view()), plan_deployment(world.view())
    assert first.steps == second.steps
    assert first.placed == second.placed


@settings(max_examples=50, deadline=None)
@given(states, st.integers(1, 2), actions, st.data())
def test_stopping_after_any_prefix_of_a_plan_does_not_change_the_result(
    state: str, replicas: int, script: list[tuple[str, Any]], data: st.DataObject
) -> None:
    whole, stopped = unfinished(state, replicas, script), unfinished(state, replicas, script)
    steps = stopped.plan().steps
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        stopped.apply(step)
        stopped.check_invariants()
    for world in (whole, stopped):
        world.settle()
        world.check_settled()
    assert {name: vm.claims for name, vm in whole.vms.items()} == {name: vm.claims for name, vm in stopped.vms.items()}
    assert {name: volume.node for name, volume in whole.volumes.items()} == {
        name: volume.node for name, volume in stopped.volumes.items()
    }


@settings(max_examples=50, deadline=None)
@given(states, actions)
def test_a_plan_does_not_read_the_old_status(state: str, script: list[tuple[str, Any]]) -> None:
    view = unfinished(state, 2, script).view()
    status = deployment_status(view, plan_deployment(view))
    for old_status in (None, status, SystemDeploymentStatus()):
        assert plan_deployment(replace(view, old_status=old_status)).steps == plan_deployment(view).steps
