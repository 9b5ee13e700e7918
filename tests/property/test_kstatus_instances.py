"""What kstatus concludes from SystemInstances, SystemDeployments and administrators' kinds, over any history.

The statuses are made from the views and plans of the simulated cluster at any moment, and carried over from reconcile
to reconcile. An instance reports only when it is reconciled, so a deployment also meets reports that are old.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from kigi.api.base import Status
from kigi.api.deployment import SystemDeploymentStatus
from kigi.api.instance import SystemInstanceStatus
from kigi.api.layer_repository import LayerRepositorySpec, LayerRepositoryStatus
from kigi.api.quota import QuotaUsed, SystemQuotaSpec, SystemQuotaStatus
from kigi.errors import (
    AccessDenied,
    Conflict,
    ImageMissing,
    KigiError,
    NameTaken,
    NeedsAction,
    RepositoryUnreachable,
    SpecInvalid,
    SystemMissing,
    Unreachable,
)
from kigi.planning.deployment import plan_deployment
from kigi.planning.instance import plan_instance
from kigi.status.deployments import deployment_status
from kigi.status.instance import instance_status
from kigi.status.quotas import QuotaView, quota_status
from kigi.status.repositories import RepositoryView, repository_status
from tests.property.test_deployment_plan import actions, run, states
from tests.support.bodies import repository_body
from tests.support.kstatus import Result, check
from tests.support.worlds import World, deployment_spec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ERRORS = (Unreachable("x"), ImageMissing("x"), Conflict("x"), NameTaken("x"), SpecInvalid("x"))
errors = st.one_of(st.none(), st.none(), st.sampled_from(ERRORS))
"""Of carrying out the steps; None: none."""


def body(status: Status, generation: int, *, deleting: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"generation": generation} | ({"deletionTimestamp": "x"} if deleting else {})
    return {"metadata": metadata, "status": status.to_api()}


def of_error(error: KigiError) -> Result:
    return "Failed" if isinstance(error, NeedsAction) else "InProgress"


class Reports:
    """The statuses of the world's deployment and instances."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.deployment: SystemDeploymentStatus | None = None
        self.instances: dict[str, tuple[str, SystemInstanceStatus]] = {}
        """Name -> uid of the instance and its status."""

    def status_of(self, name: str) -> SystemInstanceStatus | None:
        """None for an instance that was made anew."""
        uid, status = self.instances.get(name, ("", None))
        return status if self.world.instances[name].uid == uid else None

    def reconcile_instance(self, name: str, error: KigiError | None = None) -> Result:
        view = replace(self.world.view(name), old_status=self.status_of(name))
        plan = plan_instance(view)
        status = instance_status(view, plan, error)
        self.instances[name] = view.uid, status
        result = check(body(status, view.generation))
        assert status.observed_generation == view.generation
        assert status.deployment_generation == self.world.generation
        assert check(body(status, view.generation + 1)) == "InProgress", "the status is about the spec before"
        assert check(body(status, view.generation, deleting=True)) == "Terminating"
        cause = error or plan.error
        if cause is not None:
            assert result == of_error(cause)
        elif result == "Current":
            assert plan.steps == ()
            assert self.is_as_desired(name), "a desired state is reported as reached that is not"
        return result

    def is_as_desired(self, name: str) -> bool:
        """Whether the VMs of the instance are those of its state, running and stopped as it asks."""
        wanted = {target.vm_name: target.running for target in self.world.targets() if target.instance == name}
        running = {vm for vm, vmi in self.world.vmis.items() if vmi.phase == "Running" and not vmi.deleting}
        return all(vm in self.world.vms and (vm in running) == on for vm, on in wanted.items())

    def reconcile_deployment(self, error: KigiError | None = None) -> Result:
        world, seen = self.world, self.world.deployment_view()
        reported = tuple(replace(one, status=self.status_of(one.name)) for one in seen.instances)
        view = replace(seen, instances=reported, old_status=self.deployment)
        plan = plan_deployment(view)
        self.deployment = deployment_status(view, plan, error)
        result = check(body(self.deployment, world.generation, deleting=world.deleting))
        assert self.deployment.observed_generation == world.generation
        assert check(body(self.deployment, world.generation + 1)) == "InProgress"
        if world.deleting:
            assert result == "Terminating"
        elif error is not None:
            assert result == of_error(error)
        else:
            ready = [self.says(name, "Ready") for name in world.spec.instance_names()]
            stalled = [self.says(name, "Stalled") for name in world.spec.instance_names()]
            unready = [one for one, is_ready in zip(stalled, ready, strict=True) if not is_ready]
            assert (result == "Current") == (not unready and not plan.steps)
            assert (result == "Failed") == (bool(unready) and all(unready)), "Failed means that nothing goes on"
        return result

    def says(self, name: str, kind: str) -> bool:
        """Whether the instance reports the condition, about its own newest spec and the deployment's."""
        instance = self.world.instances.get(name)
        status = self.status_of(name) if instance is not None else None
        if instance is None or instance.deleting or status is None:
            return False
        if (status.observed_generation, status.deployment_generation) != (instance.generation, self.world.generation):
            return False
        return any(one.type == kind and one.status == "True" for one in status.conditions)

    def reconcile_all(self) -> tuple[set[Result], Result]:
        found = {self.reconcile_instance(name) for name in self.world.instances if self.world.is_selected(name)}
        return found, self.reconcile_deployment()


moments = st.lists(st.tuples(actions, st.sampled_from(["0", "1", "2", "all"]), errors, errors), max_size=5)


@settings(max_examples=80, deadline=None)
@given(states, st.integers(0, 3), moments)
def test_instances_and_their_deployment_at_any_moment(
    state: str, replicas: int, history: list[tuple[list[tuple[str, Any]], str, Any, Any]]
) -> None:
    world = World(deployment_spec(state, replicas=replicas), created=False)
    reports = Reports(world)
    for script, whose, of_instance, of_deployment in history:
        run(world, script)
        for name in list(world.instances):
            if whose in ("all", name) and world.is_selected(name) and not world.instances[name].deleting:
                event(f"instance {reports.reconcile_instance(name, of_instance)}")
        event(f"deployment {reports.reconcile_deployment(of_deployment)}")
    world.settle()
    found, deployment = reports.reconcile_all()
    assert (found - {"Current"}, deployment) == (set(), "Current")


def walk(world: World) -> Iterator[None]:
    """Like ``World.settle``, with a stop after each step of the operator and each move of another component."""
    for number in range(2000):
        progressed = world.node_cache_pass()
        if steps := world.plan().steps:
            world.apply(steps[0])
            progressed = True
            yield
        if moves := list(world.moves()):
            world.move(*moves[number % len(moves)])
            progressed = True
            yield
        if not progressed:
            return


@settings(max_examples=25, deadline=None)
@given(states, actions)
def test_no_step_on_the_way_is_reported_as_the_end(state: str, script: list[tuple[str, Any]]) -> None:
    world = World(deployment_spec(state, replicas=2), created=False)
    reports = Reports(world)
    run(world, script)
    for _ in walk(world):
        reports.reconcile_all()
    assert reports.reconcile_all()[1] == "Current"


@settings(max_examples=30, deadline=None)
@given(states, actions)
def test_a_deployment_that_is_being_deleted(state: str, script: list[tuple[str, Any]]) -> None:
    world = World(deployment_spec(state, replicas=2), created=False)
    reports = Reports(world)
    run(world, script)
    world.deleting = True
    assert reports.reconcile_deployment() == "Terminating"


def settled() -> tuple[World, Reports]:
    world = World(deployment_spec("a", replicas=2), created=False)
    world.settle()
    return world, Reports(world)


def test_one_instance_that_needs_a_person_does_not_stall_the_others() -> None:
    _, reports = settled()
    assert reports.reconcile_all() == ({"Current"}, "Current")
    assert reports.reconcile_instance("1", NameTaken("x")) == "Failed"
    assert reports.reconcile_deployment() == "Failed", "0 is Ready, and 1 does not go on"
    assert reports.reconcile_instance("0", Unreachable("x")) == "InProgress"
    assert reports.reconcile_deployment() == "InProgress", "0 goes on"


def test_a_report_about_an_older_spec_counts_for_nothing() -> None:
    world, reports = settled()
    reports.reconcile_all()
    world.change(powerState="Off")
    assert reports.reconcile_deployment() == "InProgress"
    world.settle()
    assert reports.reconcile_deployment() == "InProgress", "the VMs are off, and no instance has reported it"
    assert reports.reconcile_all() == ({"Current"}, "Current")


def test_a_state_that_does_not_exist_is_reported_until_it_does() -> None:
    world, reports = settled()
    world.systems.pop("a")  # the parent of b
    world.change(systemRef={"name": "b"})
    wanted = of_error(SystemMissing("x"))
    assert reports.reconcile_all() == ({wanted}, wanted)


# Administrators' kinds.

probed = st.one_of(st.none(), st.sampled_from([RepositoryUnreachable("x"), AccessDenied("x"), SpecInvalid("x")]))


@given(st.lists(st.tuples(probed, probed, st.booleans(), st.sampled_from(["Supported", "Unsupported"])), max_size=4))
def test_repositories(history: list[tuple[KigiError | None, KigiError | None, bool, str]]) -> None:
    status = LayerRepositoryStatus()
    for generation, (read_error, write_error, writer, words) in enumerate(history, 1):
        spec = LayerRepositorySpec.model_validate(
            repository_body("main", **({"credentials": WRITER} if writer else {}))["spec"]
        )
        status = repository_status(
            RepositoryView(spec, generation, status, NOW, read_error, read_error is None, write_error, words)
        )
        expected = "Current" if read_error is None else of_error(read_error)
        assert check(body(status, generation)) == expected, "a repository that is only read is Ready"
        assert check(body(status, generation + 1)) == "InProgress"


WRITER = {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=3), max_size=3), st.booleans())
def test_quotas(history: list[dict[str, int]], shared: bool) -> None:
    scope = {"scope": "Shared"} if shared else {}
    spec = SystemQuotaSpec.model_validate({"namespaceSelector": {}, "hard": {"instances": 5}, **scope})
    status = SystemQuotaStatus()
    for generation, amounts in enumerate(history, 1):
        used = {name: QuotaUsed(instances=count) for name, count in amounts.items()}
        status = quota_status(QuotaView(spec, generation, status, NOW, used))
        assert check(body(status, generation)) == "Current", "its limits are in force, whatever is above them"


def test_errors_are_of_both_classes() -> None:
    """Otherwise the laws above would not distinguish Failed from InProgress."""
    assert {of_error(one) for one in ERRORS} == {"Failed", "InProgress"}
