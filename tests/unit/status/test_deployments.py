"""Status of a deployment."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kigi.api.deployment import (
    MAX_MACHINES,
    MAX_MESSAGE,
    InstanceStatus,
    MachineStatus,
    SystemDeploymentSpec,
    SystemDeploymentStatus,
)
from kigi.domain.kubevirt import KubeVirtState
from kigi.errors import KigiError, SpecInvalid, Unreachable
from kigi.planning.deployment import plan_deployment
from kigi.planning.view import DeploymentView
from kigi.status.deployments import deployment_status
from kigi.status.instances import shorten_to_fit
from tests.support.worlds import World, digest, with_machines


def world(**fields: Any) -> World:
    return World(SystemDeploymentSpec.model_validate({"system": {"name": "a"}, **fields}))


def status_of(view: DeploymentView, error: KigiError | None = None) -> SystemDeploymentStatus:
    return deployment_status(view, plan_deployment(view), error)


def conditions(status: SystemDeploymentStatus) -> dict[str, str]:
    return {condition.type: condition.status for condition in status.conditions}


def message(status: SystemDeploymentStatus, name: str = "Ready") -> str:
    return next(f"{c.reason}: {c.message}" for c in status.conditions if c.type == name)


def test_a_settled_deployment_is_ready_and_reports_what_runs() -> None:
    w = world(replicas=2)
    w.settle()
    status = status_of(w.view())
    assert set(conditions(status).values()) == {"True", "False"}
    assert conditions(status)["Ready"] == "True"
    assert (conditions(status)["Reconciling"], conditions(status)["Stalled"]) == ("False", "False")
    assert (status.ready_replicas, status.replicas, status.system) == (2, 2, "a")
    assert message(status) == "Deployed: 2 of 2 instances run a"
    assert {machine.state for instance in status.instances for machine in instance.machines} == {"Running"}


def test_a_desired_state_is_never_reported_as_reached() -> None:
    w = world()
    w.settle()
    w.change(system={"name": "b"})
    status = status_of(w.view())
    assert conditions(status)["Ready"] == "False"
    assert status.observed_generation == 2


def test_layers_that_are_being_fetched_are_counted() -> None:
    w = world()
    for step in w.plan().steps:
        w.apply(step)
    w.node_cache_pass()
    w.move("fill", next(name for kind, name in w.moves() if kind == "fill"))
    status = status_of(w.view())
    assert message(status).startswith("LayersWarming: 1 of 3 layers (1000 B of 2.9 KiB) on n")
    assert status.progress is not None
    assert status.progress.percent == 33


def test_the_cost_of_a_change_is_kept_while_its_layers_arrive() -> None:
    w = world()
    first = status_of(w.view())
    assert first.plan is not None
    assert (first.plan.total_bytes, first.plan.missing_bytes, first.plan.moved_bytes) == (4000, 3000, 0)
    w.settle()
    last = status_of(replace(w.view(), old_status=first))
    assert last.plan is not None
    assert (last.plan.missing_bytes, last.plan.moved_bytes, last.plan.saved_ratio) == (3000, 3000, 0.25)
    w.change(system={"name": "b"})
    again = status_of(replace(w.view(), old_status=last))
    assert again.plan is not None
    assert (again.plan.total_bytes, again.plan.missing_bytes) == (7000, 2000)


def test_timings_start_when_the_change_is_first_seen() -> None:
    w = world()
    first = status_of(w.view())
    w.settle()
    status = status_of(replace(w.view(), old_status=first))
    assert status.timings is not None
    assert first.timings is not None
    assert status.timings.started_at == first.timings.started_at
    assert status.timings.ready_seconds is not None
    assert status.timings.ready_seconds > 0


def test_a_missing_feature_gate_stalls_the_deployment_while_caches_get_warm() -> None:
    w = world()
    closed = replace(w.view(), kubevirt=KubeVirtState("1.7.0", None, "set the feature gate Sidecar"))
    plan = plan_deployment(closed)
    status = deployment_status(closed, plan)
    assert conditions(status)["Stalled"] == "True"
    assert message(status, "Stalled") == "HookUnavailable: set the feature gate Sidecar"
    assert not [s for s in plan.steps if getattr(s, "manifest", {}).get("kind") == "VirtualMachine"]
    assert [s for s in plan.steps if getattr(s, "manifest", {}).get("kind") == "PersistentVolume"]


@pytest.mark.parametrize(
    ("error", "stalled"), [(SpecInvalid("mend it"), "True"), (Unreachable("the server is silent"), "False")]
)
def test_an_error_is_stalled_only_when_a_person_must_act(error: KigiError, stalled: str) -> None:
    w = world()
    w.settle()
    status = status_of(w.view(), error)
    assert conditions(status)["Ready"] == "False"
    assert conditions(status)["Stalled"] == stalled
    assert message(status) == f"{error.reason}: {error}"


def test_a_missing_state_is_waited_for() -> None:
    w = world(system={"name": "b"})
    del w.systems["a"]
    status = status_of(w.view())
    assert conditions(status)["Resolved"] == "False"
    assert conditions(status)["Placed"] == "Unknown"
    assert (conditions(status)["Reconciling"], conditions(status)["Stalled"]) == ("True", "False")
    assert "SystemNode b: spec.parent.name 'a' does not exist" in message(status)


def test_a_layer_that_a_node_refuses_is_reported_with_the_reason() -> None:
    w = world()
    for step in w.plan().steps:
        w.apply(step)
    view = w.view()
    refusing = {
        name: replace(state, refused={digest("base"): ("LayerCorrupt", "other bytes")})
        for name, state in view.nodes.items()
    }
    status = status_of(replace(view, nodes=refusing))
    assert message(status).startswith("LayerCorrupt: n")
    assert "other bytes" in message(status)


def placed(**refused: tuple[str, str]) -> DeploymentView:
    """A deployment whose disks have a node, where the named images' layers are refused."""
    w = world()
    for step in w.plan().steps:
        w.apply(step)
    view = w.view()
    reasons = {digest(name): why for name, why in refused.items()}
    return replace(view, nodes={name: replace(state, refused=reasons) for name, state in view.nodes.items()})


@pytest.mark.parametrize(
    ("reason", "stalled"),
    [
        ("AccessDenied", "True"),
        ("BudgetExceeded", "True"),
        ("LayerRefused", "True"),
        ("RepositoryUnknown", "True"),
        ("SpecInvalid", "True"),
        ("LayerNotInRepository", "False"),
        ("RepositoryUnreachable", "False"),
        ("LayerCorrupt", "False"),
        ("NoRoom", "False"),
    ],
)
def test_a_refusal_that_needs_action_stalls_the_deployment_until_it_is_fixed(reason: str, stalled: str) -> None:
    view = placed(base=(reason, "because"))
    status = status_of(view)
    assert conditions(status)["Stalled"] == stalled
    assert message(status).startswith(f"{reason}: n")
    mended = {name: replace(state, refused={}) for name, state in view.nodes.items()}
    after = status_of(replace(view, nodes=mended, old_status=status))
    assert (conditions(after)["Stalled"], conditions(after)["Reconciling"]) == ("False", "True")


def test_a_refusal_that_needs_action_is_reported_before_others() -> None:
    view = placed(base=("RepositoryUnreachable", "silent"), web=("AccessDenied", "no"), db=("NoRoom", "full"))
    assert message(status_of(view)).startswith("AccessDenied: n")


def test_refusals_of_a_silent_daemon_are_not_reported() -> None:
    view = placed(base=("AccessDenied", "no"))
    silent = {name: replace(state, cache_alive=False) for name, state in view.nodes.items()}
    assert message(status_of(replace(view, nodes=silent))).startswith("CacheSilent: ")


def test_a_node_that_is_not_ready_is_named() -> None:
    w = world()
    w.settle()
    used = next(volume.node for volume in w.volumes.values())
    w.nodes[used].ready = False
    status = status_of(w.view())
    assert message(status) == f"NodeNotReady: waits for {used}, or for that Node to be deleted"


def test_stopped_machines_are_ready_if_they_should_be_off() -> None:
    w = world(running=False)
    w.settle()
    status = status_of(w.view())
    assert conditions(status)["Ready"] == "True"
    assert {machine.state for instance in status.instances for machine in instance.machines} == {"Stopped"}


@pytest.mark.parametrize("printable", ["ErrImagePull", "ImagePullBackOff", "ErrorPvcNotFound", "DataVolumeError"])
@pytest.mark.parametrize("words", ["", "KubeVirt's words"])
def test_a_vm_that_kubevirt_cannot_start_is_failed_with_its_message(printable: str, words: str) -> None:
    w = world()
    w.settle()
    view = w.view()
    failing = {"printable_status": printable, "message": words}
    status = status_of(with_machines(view, vm=failing, vmi={"phase": "Scheduling", "ready": False}))
    machines = [machine for instance in status.instances for machine in instance.machines]
    assert {(machine.state, machine.message) for machine in machines} == {("Failed", words or printable)}
    assert (words or printable) in message(status)


def test_the_message_of_a_failed_start_is_kept_until_the_next_start_of_the_same_disk() -> None:
    """Between two starts there is no VMI with the reason why the first one failed."""
    w = world()
    w.settle()
    view = w.view()

    def after(old: SystemDeploymentStatus | None, **fields: Any) -> SystemDeploymentStatus:
        return status_of(replace(with_machines(view, "db", **fields), old_status=old))

    def messages(status: SystemDeploymentStatus) -> set[str | None]:
        return {
            machine.message for instance in status.instances for machine in instance.machines if machine.name == "db"
        }

    waiting = {"vm": {"printable_status": "CrashLoopBackOff"}, "is_off": True}
    starting = {"phase": "Scheduling", "ready": False}
    failed = after(None, vm={"message": "no such link"}, vmi={"phase": "Failed", "ready": False})
    assert messages(after(failed, **waiting)) == {"no such link"}
    assert messages(after(after(failed, **waiting), **waiting)) == {"no such link"}
    text = failed.model_dump_json(by_alias=True).replace('"revision":1', '"revision":7')
    assert messages(after(SystemDeploymentStatus.model_validate_json(text), **waiting)) == {"CrashLoopBackOff"}
    assert messages(after(failed, vm={"printable_status": "Starting"}, vmi=starting)) == {None}


def test_a_vm_with_persistent_state_of_its_preference_stalls_the_deployment() -> None:
    w = world()
    w.settle()
    view = w.view()
    status = status_of(with_machines(view, vmi={"persistent_state": "devices.tpm"}))
    assert (conditions(status)["Ready"], conditions(status)["Stalled"]) == ("False", "True")
    assert message(status).startswith("StateBesideDisk: SystemNode a: machine ")
    assert "template.patch.spec.domain.devices.tpm.persistent: false" in message(status)
    found = {machine.message for instance in status.instances for machine in instance.machines}
    assert found == {"no reset reaches the state of its persistent domain.devices.tpm"}


def test_a_pending_hook_does_not_affect_the_placed_condition() -> None:
    w = world()
    w.settle()
    status = status_of(replace(w.view(), kubevirt=KubeVirtState("1.9.0", None, "the Plugin is made", pending=True)))
    assert conditions(status)["Placed"] == "True"
    assert message(status) == "HookPending: the Plugin is made"


def test_a_missing_candidate_node_is_reported_in_the_placed_condition() -> None:
    w = world()
    w.settle()
    w.change(replicas=2, placement={"nodeSelector": {"pool": "none"}})
    assert message(status_of(w.view()), "Placed").startswith("NoNode")


def many(machines: int, ready: bool) -> list[InstanceStatus]:
    """Instances of 100 machines each, with the longest names and messages that there are."""
    return [
        InstanceStatus(
            instance=number,
            ready=ready,
            system="s" * 63,
            placement="node " + "n" * 63,
            machines=[
                MachineStatus(
                    name=f"{place:0>30}",
                    node="n" * 63,
                    state="Running" if ready else "Unschedulable",
                    system="s" * 63,
                    revision=1000,
                    message=None if ready else "m" * MAX_MESSAGE,
                )
                for place in range(100)
            ],
        )
        for number in range(machines // 100)
    ]


def size(instances: list[InstanceStatus]) -> int:
    return sum(len(json.dumps(instance.to_api())) for instance in instances)


def test_machines_that_fit_into_one_object_are_reported_in_full() -> None:
    whole = many(2000, ready=False)
    assert shorten_to_fit(whole) == whole
    assert size(whole) < 1_200_000


def test_each_machine_of_a_shortened_status_keeps_name_state_revision_and_system() -> None:
    whole = [*many(MAX_MACHINES - 500, ready=True), *many(500, ready=False)]
    brief = shorten_to_fit(whole)
    assert size(brief) < 1_200_000 < size(whole)
    for old, new in zip(whole, brief, strict=True):
        for before, after in zip(old.machines, new.machines, strict=True):
            assert (after.name, after.state, after.revision) == (before.name, before.state, before.revision)
            assert (after.system or new.system) == before.system
        if not old.ready:
            assert new == old


def test_a_shortened_status_adds_no_history() -> None:
    w = world(replicas=2)
    w.settle()
    view = w.view()
    first = status_of(view)
    brief = first.model_copy(update={"instances": shorten_to_fit(first.instances, limit_bytes=0, always=0)})
    assert brief.instances != first.instances
    assert status_of(replace(view, old_status=brief)).history == first.history


def test_a_long_message_of_kubevirt_is_cut() -> None:
    w = world()
    w.settle()
    view = w.view()
    name = view.machines[0].vm.machine
    status = status_of(with_machines(view, name, vm={"message": "x" * 1000}, vmi={"phase": "Scheduling"}))
    found = next(m.message for i in status.instances for m in i.machines if m.message)
    assert len(found) == MAX_MESSAGE


def test_more_machines_than_one_object_can_hold_are_refused() -> None:
    w = world(replicas=1000)
    w.spec = w.spec.model_copy(update={"replicas": MAX_MACHINES})
    status = status_of(w.view())
    assert message(status, "Stalled").startswith("TooManyMachines: spec.replicas: ")
    assert "create another SystemDeployment" in message(status, "Stalled")
