"""Status of a deployment: a summary of its instances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.conditions import with_problem
from kigi.api.deployment import MAX_UNREADY, SystemDeploymentStatus
from kigi.api.instance import SystemInstanceStatus
from kigi.domain.layers import Layer
from kigi.errors import KigiError, NotSelected, SpecInvalid, SystemMissing, Unreachable
from kigi.planning.deployment import plan_deployment
from kigi.planning.deployment_view import DeploymentView, LayerUse, ObservedInstance
from kigi.planning.instance import plan_instance
from kigi.status.deployments import deployment_status
from kigi.status.instance import instance_status
from tests.support.prefetch_worlds import NOW
from tests.support.worlds import World, deployment_spec, digest, with_machines


def settled(**fields: Any) -> World:
    w = World(deployment_spec(**fields))
    w.settle()
    return w


def reports(w: World) -> dict[str, SystemInstanceStatus]:
    """The status of each instance, as its reconcile would write it now."""
    return {name: instance_status(w.view(name), plan_instance(w.view(name))) for name in w.instances}


def view_of(w: World, found: dict[str, SystemInstanceStatus] | None = None) -> DeploymentView:
    """The deployment with these reports of its instances."""
    view, known = w.deployment_view(), reports(w) if found is None else found
    return replace(view, instances=tuple(replace(one, status=known.get(one.name)) for one in view.instances))


def status_of(view: DeploymentView, error: KigiError | None = None) -> SystemDeploymentStatus:
    return deployment_status(view, plan_deployment(view), error)


def conditions(status: SystemDeploymentStatus) -> dict[str, str]:
    return {condition.type: condition.status for condition in status.conditions}


def message(status: SystemDeploymentStatus, name: str = "Ready") -> str:
    return next(f"{c.reason}: {c.message}" for c in status.conditions if c.type == name)


def test_a_settled_deployment_is_ready_and_counts_its_instances() -> None:
    status = status_of(view_of(settled(replicas=3)))
    assert (conditions(status)["Ready"], conditions(status)["Stalled"]) == ("True", "False")
    assert (status.replicas, status.ready_replicas, status.updated_replicas, status.stopped_replicas) == (3, 3, 3, 0)
    assert (status.summary, status.system_name, status.unready_instances) == ("3/3", "a", [])
    assert message(status) == "Deployed: 3 of 3 instances run a"
    assert message(status, "Cached") == "LayersCached: 3 of 3 instances"


def test_instances_that_should_be_off_are_ready_and_counted() -> None:
    w = settled(replicas=2)
    w.change_instance("1", powerState="Off")
    w.settle()
    status = status_of(view_of(w))
    assert (status.ready_replicas, status.stopped_replicas) == (2, 1)


def test_a_report_about_an_older_generation_does_not_count() -> None:
    """Else a deployment would look ready between a change of its spec and the reports of its instances."""
    w = settled(replicas=2)
    before = reports(w)
    w.change(systemRef={"name": "b"})
    status = status_of(view_of(w, before))
    assert (conditions(status)["Ready"], status.summary) == ("False", "0/2")
    assert message(status).startswith("InstancesPending: 0 of 2 instances ready")


def test_a_report_from_before_the_deployment_existed_does_not_count() -> None:
    """A user may create a SystemInstance first; the deployment must not look as if a person had to act."""
    w = settled(replicas=1)
    old = with_problem(SystemInstanceStatus(), NotSelected("there is no SystemDeployment"), generation=1, now=NOW)
    status = status_of(view_of(w, {"1": old}))
    assert (conditions(status)["Ready"], conditions(status)["Stalled"]) == ("False", "False")
    assert message(status).startswith("InstancesPending")


def test_a_report_about_an_older_generation_of_the_instance_does_not_count() -> None:
    w = settled(replicas=2)
    before = reports(w)
    w.change_instance("1", systemRef={"name": "b"})
    assert status_of(view_of(w, before)).unready_instances == ["1"]


def test_an_instance_that_needs_a_person_does_not_hide_that_others_go_on() -> None:
    w = World(deployment_spec(replicas=3))
    w.change_instance("1", machines=[{"name": "mail"}])
    going_on = status_of(view_of(w))
    assert (conditions(going_on)["Stalled"], conditions(going_on)["Reconciling"]) == ("False", "True")
    w.settle()
    status = status_of(view_of(w))
    assert (conditions(status)["Stalled"], status.summary, status.unready_instances) == ("True", "2/3", ["1"])
    assert message(status).startswith("MachineUnknown: 2 of 3 instances ready; 1: spec.machines[mail]")


def test_the_message_names_the_most_frequent_reason_and_an_instance_with_it() -> None:
    w = settled(replicas=3)
    paused = {"vmi": {"paused": True}}
    found = reports(w)
    for name in ("1", "2"):
        view = with_machines(w.view(name), "db", **paused)  # type: ignore[arg-type]
        found[name] = instance_status(view, plan_instance(view))
    assert message(status_of(view_of(w, found))).startswith("MachinesStarting: 1 of 3 instances ready; 1: ")


def test_the_names_of_unready_instances_are_bounded() -> None:
    w = World(deployment_spec(replicas=30))
    status = status_of(view_of(w, {}))
    assert status.unready_instances == [str(number) for number in range(MAX_UNREADY)]
    assert status.summary == "0/30"


def test_no_instances_are_ready() -> None:
    status = status_of(replace(view_of(settled(replicas=0)), has_finalizer=True))
    assert (conditions(status)["Ready"], status.summary) == ("True", "0/0")


@pytest.mark.parametrize(
    ("error", "stalled"), [(SpecInvalid("mend it"), "True"), (Unreachable("the server is silent"), "False")]
)
def test_an_error_is_stalled_only_when_a_person_must_act(error: KigiError, stalled: str) -> None:
    status = status_of(view_of(settled()), error)
    assert (conditions(status)["Ready"], conditions(status)["Stalled"]) == ("False", stalled)
    assert message(status) == f"{error.reason}: {error}"


def test_a_spec_that_does_not_validate_is_reported() -> None:
    status = status_of(replace(view_of(settled()), spec=SpecInvalid("spec.replicas: no number")))
    assert (conditions(status)["Stalled"], message(status)) == ("True", "SpecInvalid: spec.replicas: no number")


def test_a_missing_state_of_a_deployment_without_instances_is_reported() -> None:
    view = replace(view_of(settled(replicas=0)), problem=SystemMissing("there is no a"))
    assert message(status_of(view), "Resolved") == "SystemMissing: there is no a"


def test_a_deletion_names_what_it_waits_for() -> None:
    w = settled(replicas=2)
    w.deleting = True
    assert message(status_of(view_of(w))) == "Deleting: waits for the deletion of 2 instances"


def layers(*names: str) -> dict[Any, Layer]:
    return {digest(name): Layer(digest(name), 1000, 512) for name in names}


def with_layers(view: DeploymentView, held: set[str], before: set[str] | None) -> DeploymentView:
    """One node that needs base, web and db, and holds some of them."""
    use = LayerUse(
        whole_bytes=4000,
        wanted_on={"n1": layers("base", "web", "db")},
        held_on={"n1": frozenset(layers(*held))},
        held_before=None if before is None else {"n1": frozenset(layers(*before))},
    )
    return replace(view, layers=use)


def test_the_cost_of_a_change_is_what_was_missing_when_it_was_first_seen() -> None:
    view = view_of(settled())
    status = status_of(with_layers(view, {"base", "web"}, {"base"}))
    assert status.plan is not None
    assert (status.plan.total_bytes, status.plan.missing_bytes, status.plan.moved_bytes) == (4000, 2000, 1000)
    assert status.progress is not None
    assert (status.progress.held_bytes, status.progress.wanted_bytes, status.progress.percent) == (2000, 3000, 66)


def test_another_operator_keeps_the_cost_that_the_first_one_saw() -> None:
    view = view_of(settled())
    first = status_of(with_layers(view, {"base"}, {"base"}))
    again = status_of(with_layers(replace(view, old_status=first), {"base", "web", "db"}, None))
    assert again.plan is not None
    assert (again.plan.missing_bytes, again.plan.moved_bytes) == (2000, 2000)


def test_times_start_when_the_change_is_first_seen() -> None:
    w = World(deployment_spec())
    first = status_of(view_of(w))
    w.settle()
    status = status_of(replace(view_of(w), old_status=first))
    assert first.last_change is not None
    assert status.last_change is not None
    assert status.last_change.start_time == first.last_change.start_time
    assert status.last_change.ready_milliseconds is not None
    assert status.last_change.ready_milliseconds > 0
    w.change(resetToken="x")
    again = status_of(replace(view_of(w), old_status=status))
    assert again.last_change is not None
    assert again.last_change.start_time != first.last_change.start_time


def test_a_thousand_instances_fit_into_the_status() -> None:
    view = view_of(World(deployment_spec(replicas=0)))
    instances = tuple(ObservedInstance(str(n), f"dep-{n}", f"uid-{n}", 1, False, True, (), None) for n in range(1000))
    view = replace(view, instances=instances, spec=deployment_spec(replicas=1000))
    assert len(status_of(view).model_dump_json(by_alias=True)) < 8_000
