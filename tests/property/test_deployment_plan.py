"""Laws of planning; the operator may die after each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kigi.api.deployment import SystemDeploymentStatus
from kigi.api.instance import SystemInstanceStatus
from kigi.planning.deployment import plan_deployment
from kigi.planning.instance import plan_instance
from kigi.status.deployments import deployment_status
from kigi.status.instance import instance_status
from tests.support.worlds import World, deployment_spec

states = st.sampled_from(["a", "b", "c"])
tokens = st.sampled_from([None, "1", "2"])
powers = st.sampled_from([None, "On", "Off"])


NAMES = ["0", "1", "2"]


strategies = st.fixed_dictionaries(
    {},
    optional={
        "onSwitch": st.sampled_from(["ReplaceAll", "ReplaceChanged"]),
        "onEdit": st.sampled_from(["OnReset", "Immediate"]),
    },
)


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["system", "reset", "replicas", "power", "policy", "placement", "isolation"]))
    match kind:
        case "system":
            return {"systemRef": {"name": draw(states)}}
        case "reset":
            return {"resetToken": draw(tokens)}
        case "replicas":
            return {"replicas": draw(st.integers(0, 3))}
        case "power":
            return {"powerState": draw(powers)}
        case "policy":
            return {"updateStrategy": draw(strategies)}
        case "isolation":
            return {"isolation": {"mode": draw(st.sampled_from(["None", "Instance"]))}}
    return {"placement": {"strategy": draw(st.sampled_from(["CacheAware", "Spread", "Pack"]))}}


@st.composite
def settings_of_instance(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A change of what differs for one instance; every state has the machine web."""
    state = draw(st.one_of(st.none(), states))
    changed: dict[str, Any] = {"systemRef": {"name": state} if state else None, "powerState": draw(powers)}
    if draw(st.booleans()):
        changed["machines"] = [{"name": "web", "systemRef": {"name": draw(states)}}]
    return draw(st.sampled_from(NAMES)), changed


edits = st.one_of(
    st.tuples(st.just("memory"), states, st.sampled_from(["512Mi", "2Gi"])),
    st.tuples(st.just("image"), states, st.sampled_from(["web", "web-b", "extra"])),
    st.tuples(st.just("disk"), st.just("b"), st.sampled_from(["data", "data-b"])),
    st.tuples(st.just("add"), st.just("a"), st.just("extra")),
    st.tuples(st.just("remove"), st.just("a"), st.just("new")),
)


def edit(world: World, change: tuple[str, str, str]) -> None:
    """An edit of one state in place."""
    kind, state, value = change
    match kind:
        case "memory":
            world.edit(state, "web", memory=value)
        case "image":
            world.edit_image(state, "web", value)
        case "disk":
            world.edit_disk(state, "db", "data", value)
        case "add":
            world.edit_image(state, "new", value)
        case _:
            world.edit_away(state, value)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("change"), changes()),
        st.tuples(st.just("instance"), settings_of_instance()),
        st.tuples(st.just("step"), st.integers(0, 5)),
        st.tuples(st.just("move"), st.integers(0, 20)),
        st.tuples(st.just("cache"), st.none()),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("edit"), edits),
    ),
    max_size=60,
)


def world_of(state: str, replicas: int, **fields: Any) -> World:
    """A world whose SystemInstances do not exist yet."""
    return World(deployment_spec(state, replicas=replicas, **fields), created=False)


def run(world: World, script: list[tuple[str, Any]]) -> None:
    for kind, argument in script:
        match kind:
            case "change":
                world.change(**argument)
            case "instance":
                world.change_instance(argument[0], **argument[1])
            case "edit":
                edit(world, argument)
            case "settle":
                world.settle()
            case "step":
                for step in world.plan().steps[: argument + 1]:
                    world.apply(step)
                    world.check_invariants()
            case "move":
                moves = list(world.moves())
                if moves:
                    world.move(*moves[argument % len(moves)])
            case "delete":
                world.delete_instance(argument)
            case "lose":
                world.lose_instance(argument)
            case "create":
                world.create_instance(argument)
            case _:
                world.node_cache_pass()
        world.check_invariants()


@settings(max_examples=300, deadline=None)
@given(states, st.integers(0, 3), actions)
def test_any_history_ends_in_the_desired_state_without_leftovers(
    state: str, replicas: int, script: list[tuple[str, Any]]
) -> None:
    world = world_of(state, replicas)
    run(world, script)
    world.settle()
    world.check_settled()
    assert world.plan().steps == ()


@settings(max_examples=150, deadline=None)
@given(states, st.integers(1, 2), actions)
def test_deletion_at_any_moment_leaves_nothing_behind(state: str, replicas: int, script: list[tuple[str, Any]]) -> None:
    world = world_of(state, replicas)
    run(world, script)
    world.deleting = True
    world.settle()
    world.gone = world.gone or not world.finalizer
    world.check_settled()


@settings(max_examples=100, deadline=None)
@given(states, actions, st.sampled_from(["n1", "n2"]))
def test_machines_of_a_lost_node_start_on_another(state: str, script: list[tuple[str, Any]], lost: str) -> None:
    world = world_of(state, 2)
    run(world, script)
    world.lose_node(lost)
    world.settle()
    world.check_settled()


@settings(max_examples=100, deadline=None)
@given(states, actions, actions, st.sampled_from(["n1", "n2"]), st.booleans())
def test_a_returning_node_loses_its_old_overlays(
    state: str, script: list[tuple[str, Any]], meanwhile: list[tuple[str, Any]], lost: str, deleted: bool
) -> None:
    world = world_of(state, 2)
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
    world = world_of(state, replicas)
    run(world, script)
    world.change(resetToken="fresh", powerState="On")
    for name in NAMES:
        world.change_instance(name, powerState=None)
    asked = world.clock
    world.settle()
    assert all(made > asked for made in world.overlay_times().values())


@settings(max_examples=100, deadline=None)
@given(states, actions)
def test_without_a_change_no_machine_is_touched(state: str, script: list[tuple[str, Any]]) -> None:
    world = world_of(state, 2)
    run(world, script)
    world.settle()
    before = (world.overlay_times(), {name: vmi.uid for name, vmi in world.vmis.items()})
    world.settle()
    world.change(placement={"strategy": "Spread"}, prefetchRefs=[{"name": "c"}])
    world.settle()
    assert before == (world.overlay_times(), {name: vmi.uid for name, vmi in world.vmis.items()})


@settings(max_examples=50, deadline=None)
@given(states, states)
def test_each_node_moves_each_layer_once(first: str, second: str) -> None:
    world = world_of(first, 3)
    world.settle()
    world.change(systemRef={"name": second})
    world.settle()
    for moved in world.moved.values():
        assert len(moved) == len(set(moved))


@settings(max_examples=60, deadline=None)
@given(states, st.sampled_from(["ReplaceAll", "ReplaceChanged"]), actions, st.lists(edits, min_size=1, max_size=4))
def test_an_edit_that_waits_disturbs_no_machine_and_the_next_reset_takes_it(
    state: str, on_switch: str, script: list[tuple[str, Any]], later: list[tuple[str, str, str]]
) -> None:
    world = world_of(state, 2)
    run(world, script)
    world.change(updateStrategy={"onSwitch": on_switch}, powerState="On")
    for name in NAMES:
        world.change_instance(name, powerState=None, machines=None)
    world.settle()
    before, times = {name: vmi.uid for name, vmi in world.vmis.items()}, world.overlay_times()
    for each in later:
        edit(world, each)
        for step in world.plan().steps[:1]:
            world.apply(step)
    world.settle()
    world.check_settled()
    assert before.items() <= {name: vmi.uid for name, vmi in world.vmis.items()}.items()
    assert times.items() <= world.overlay_times().items()
    world.change(resetToken="fresh")
    world.settle()
    world.check_settled()
    assert world.older() == set()


@settings(max_examples=60, deadline=None)
@given(states, actions, st.lists(edits, min_size=1, max_size=4))
def test_an_immediate_edit_leaves_no_older_content(
    state: str, script: list[tuple[str, Any]], later: list[tuple[str, str, str]]
) -> None:
    world = world_of(state, 2)
    run(world, script)
    for each in later:
        edit(world, each)
    world.change(updateStrategy={"onEdit": "Immediate"})
    world.settle()
    world.check_settled()
    world.change(updateStrategy={})
    assert world.older() == set()


def unfinished(state: str, replicas: int, script: list[tuple[str, Any]]) -> World:
    """A world in the middle of any history, isolated instances included."""
    world = world_of(state, replicas, isolation={"mode": "Instance"})
    run(world, script)
    return world


@settings(max_examples=30, deadline=None)
@given(states, st.integers(1, 3), actions, st.randoms())
def test_the_order_of_listings_does_not_change_the_plan(
    state: str, replicas: int, script: list[tuple[str, Any]], random: Any
) -> None:
    world = unfinished(state, replicas, script)
    for name in world.instances:
        view = world.view(name)
        lists = {name: getattr(view, name) for name in ("volumes", "claims", "machines", "policies")}
        shuffled = {name: tuple(random.sample(found, len(found))) for name, found in lists.items()}
        nodes = dict(random.sample(list(view.nodes.items()), len(view.nodes)))
        other = plan_instance(replace(view, nodes=nodes, **shuffled))
        assert sorted(map(repr, other.steps)) == sorted(map(repr, plan_instance(view).steps))
        assert [placed.node for placed in other.placed] == [placed.node for placed in plan_instance(view).placed]


@settings(max_examples=50, deadline=None)
@given(states, st.integers(1, 3), actions)
def test_equal_views_give_equal_plans(state: str, replicas: int, script: list[tuple[str, Any]]) -> None:
    world = unfinished(state, replicas, script)
    first, second = world.plan(), world.plan()
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
        # Before anything else moves: where the next instance is placed depends on what caches hold by then.
        while steps := world.plan().steps:
            world.apply(steps[0])
            world.check_invariants()
        world.settle()
        world.check_settled()
    assert {name: vm.claims for name, vm in whole.vms.items()} == {name: vm.claims for name, vm in stopped.vms.items()}
    assert {name: volume.node for name, volume in whole.volumes.items()} == {
        name: volume.node for name, volume in stopped.volumes.items()
    }


@settings(max_examples=50, deadline=None)
@given(states, actions)
def test_a_plan_does_not_read_the_old_status(state: str, script: list[tuple[str, Any]]) -> None:
    world = unfinished(state, 2, script)
    for name in world.instances:
        view = world.view(name)
        status = instance_status(view, plan_instance(view))
        for old_status in (None, status, SystemInstanceStatus()):
            assert plan_instance(replace(view, old_status=old_status)).steps == plan_instance(view).steps
    view = world.deployment_view()
    status = deployment_status(view, plan_deployment(view))
    for old_status in (None, status, SystemDeploymentStatus()):
        assert plan_deployment(replace(view, old_status=old_status)).steps == plan_deployment(view).steps


accidents = st.one_of(
    st.tuples(st.sampled_from(["delete", "lose", "create"]), st.sampled_from([*NAMES, "7"])),
    st.tuples(st.just("change"), changes()),
    st.tuples(st.just("step"), st.integers(0, 3)),
    st.tuples(st.just("move"), st.integers(0, 20)),
    st.tuples(st.just("cache"), st.none()),
    st.tuples(st.just("settle"), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(states, st.integers(0, 3), st.lists(accidents, max_size=60))
def test_instances_that_come_and_go_at_any_time_never_share_a_disk(
    state: str, replicas: int, script: list[tuple[str, Any]]
) -> None:
    """Deleted, deleted by force or created by a user between any two steps; ``World`` checks each start of a VM."""
    world = world_of(state, replicas)
    run(world, script)
    world.settle()
    world.check_settled()
    assert world.plan().steps == ()


@settings(max_examples=100, deadline=None)
@given(states, st.lists(accidents, max_size=40), st.sampled_from(NAMES))
def test_a_deleted_instance_starts_again_on_fresh_disks(state: str, script: list[tuple[str, Any]], name: str) -> None:
    world = world_of(state, 3)
    run(world, script)
    world.change(replicas=3, powerState="On")
    world.settle()
    world.delete_instance(name)
    asked = world.clock
    others = {slot: made for slot, made in world.overlay_times().items() if slot[0] != name}
    world.settle()
    world.check_settled()
    for slot, made in world.overlay_times().items():
        assert made > asked if slot[0] == name else made == others[slot]
