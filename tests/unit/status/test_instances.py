"""Status of an instance."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kigi.api.instance import MAX_MESSAGE, SystemInstanceStatus
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.status_patch import status_operations
from kigi.domain.systems import MachineChange, System
from kigi.errors import KigiError, SpecInvalid, Unreachable
from kigi.planning.instance import plan_instance
from kigi.planning.view import InstanceView
from kigi.status.instance import instance_status
from tests.support.worlds import World, deployment_spec, digest, with_machines


def world(**fields: Any) -> World:
    return World(deployment_spec(**fields))


def status_of(view: InstanceView, error: KigiError | None = None) -> SystemInstanceStatus:
    return instance_status(view, plan_instance(view), error)


def conditions(status: SystemInstanceStatus) -> dict[str, str]:
    return {condition.type: condition.status for condition in status.conditions}


def message(status: SystemInstanceStatus, name: str = "Ready") -> str:
    return next(f"{c.reason}: {c.message}" for c in status.conditions if c.type == name)


def test_a_settled_deployment_is_ready_and_reports_what_runs() -> None:
    w = world()
    w.settle()
    status = status_of(w.view())
    assert set(conditions(status).values()) == {"True", "False"}
    assert conditions(status)["Ready"] == "True"
    assert (conditions(status)["Reconciling"], conditions(status)["Stalled"]) == ("False", "False")
    assert (status.summary, status.running_machines, status.system_name) == ("2/2", 2, "a")
    assert message(status) == "Deployed: 2 of 2 machines are as a defines them"
    assert status.node_names == sorted({volume.node for volume in w.volumes.values()})
    assert {machine.state for machine in status.machines} == {"Running"}


def test_a_desired_state_is_never_reported_as_reached() -> None:
    w = world()
    w.settle()
    w.change(systemRef={"name": "b"})
    status = status_of(w.view())
    assert conditions(status)["Ready"] == "False"
    assert (status.observed_generation, status.deployment_generation) == (1, 2)


def test_layers_that_are_being_fetched_are_counted() -> None:
    w = world()
    for step in w.plan().steps:
        w.apply(step)
    w.node_cache_pass()
    w.move("fill", next(name for kind, name in w.moves() if kind == "fill"))
    status = status_of(w.view())
    assert message(status).startswith("LayersWarming: 1 of 3 layers (1000 B of 2.9 KiB) on n")


def test_a_missing_feature_gate_stalls_the_deployment_while_caches_get_warm() -> None:
    w = world()
    closed = replace(w.view(), kubevirt=KubeVirtState("1.7.0", None, "set the feature gate Sidecar"))
    plan = plan_instance(closed)
    status = instance_status(closed, plan)
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
    w = world(systemRef={"name": "b"})
    del w.systems["a"]
    status = status_of(w.view())
    assert conditions(status)["Resolved"] == "False"
    assert conditions(status)["Placed"] == "Unknown"
    assert (conditions(status)["Reconciling"], conditions(status)["Stalled"]) == ("True", "False")
    assert "SystemNode b: spec.parentRef.name 'a' does not exist" in message(status)


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


def placed(**refused: tuple[str, str]) -> InstanceView:
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
    w = world(powerState="Off")
    w.settle()
    status = status_of(w.view())
    assert conditions(status)["Ready"] == "True"
    assert {machine.state for machine in status.machines} == {"Stopped"}


@pytest.mark.parametrize("printable", ["ErrImagePull", "ImagePullBackOff", "ErrorPvcNotFound", "DataVolumeError"])
@pytest.mark.parametrize("words", ["", "KubeVirt's words"])
def test_a_vm_that_kubevirt_cannot_start_is_failed_with_its_message(printable: str, words: str) -> None:
    w = world()
    w.settle()
    view = w.view()
    failing = {"printable_status": printable, "message": words}
    status = status_of(with_machines(view, vm=failing, vmi={"phase": "Scheduling", "ready": False}))
    machines = status.machines
    assert {(machine.state, machine.message) for machine in machines} == {("Failed", words or printable)}
    assert (words or printable) in message(status)
    is_pull = printable in ("ErrImagePull", "ImagePullBackOff")
    assert message(status).startswith("ImageNotPulled: " if is_pull else "MachinesStarting: ")


def test_an_image_that_cannot_be_pulled_is_named_before_other_troubles() -> None:
    w = world()
    w.settle()
    view = with_machines(w.view(), vm={"message": "no such link"}, vmi={"phase": "Scheduling", "ready": False})
    last = max(machine.vm.machine for machine in view.machines)
    pull = {"printable_status": "ImagePullBackOff", "message": "image r.example/kigi:1 of its pod cannot be pulled"}
    view = with_machines(view, last, vm=pull)
    assert message(status_of(view)).endswith(f": {pull['message']}")


def test_the_message_of_a_failed_start_is_kept_until_the_next_start_of_the_same_disk() -> None:
    """Between two starts there is no VMI with the reason why the first one failed."""
    w = world()
    w.settle()
    view = w.view()

    def after(old: SystemInstanceStatus | None, **fields: Any) -> SystemInstanceStatus:
        return status_of(replace(with_machines(view, "db", **fields), old_status=old))

    def messages(status: SystemInstanceStatus) -> set[str | None]:
        return {machine.message for machine in status.machines if machine.name == "db"}

    waiting = {"vm": {"printable_status": "CrashLoopBackOff"}, "is_off": True}
    starting = {"phase": "Scheduling", "ready": False}
    failed = after(None, vm={"message": "no such link"}, vmi={"phase": "Failed", "ready": False})
    assert messages(after(failed, **waiting)) == {"no such link"}
    assert messages(after(after(failed, **waiting), **waiting)) == {"no such link"}
    text = failed.model_dump_json(by_alias=True).replace('"revision":1', '"revision":7')
    assert messages(after(SystemInstanceStatus.model_validate_json(text), **waiting)) == {"CrashLoopBackOff"}
    assert messages(after(failed, vm={"printable_status": "Starting"}, vmi=starting)) == {None}


def test_a_vm_with_persistent_state_of_its_preference_stalls_the_deployment() -> None:
    w = world()
    w.settle()
    view = w.view()
    status = status_of(with_machines(view, vmi={"persistent_state": "devices.tpm"}))
    assert (conditions(status)["Ready"], conditions(status)["Stalled"]) == ("False", "True")
    assert message(status).startswith("StateBesideDisk: SystemNode a: machine ")
    assert "patch.merge.spec.domain.devices.tpm.persistent: false" in message(status)
    found = {machine.message for machine in status.machines}
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
    w.change(resetToken="x", placement={"nodeSelector": {"pool": "none"}})
    w.lose_node(next(volume.node for volume in w.volumes.values()))
    assert message(status_of(w.view()), "Placed").startswith("NoNode")


def test_the_error_of_a_state_keeps_the_machines_of_the_last_status() -> None:
    """Else they would look new afterwards, and get other entries in the history."""
    w = world()
    w.settle()
    before = status_of(w.view())
    view = w.view()
    gone = replace(view, systems={**view.systems, "a": SpecInvalid("cannot be resolved")}, old_status=before)
    broken = status_of(gone)
    assert [machine.name for machine in broken.machines] == ["db", "web"]
    assert status_of(replace(view, old_status=broken)).history == before.history


def test_a_machine_names_its_state_only_where_it_differs_from_the_instances() -> None:
    w = world(state="b")
    w.change_instance("0", machines=[{"name": "web", "systemRef": {"name": "a"}}])
    w.settle()
    status = status_of(w.view())
    assert {machine.name: machine.system_name for machine in status.machines} == {"db": None, "web": "a"}


def test_a_state_that_could_not_be_resolved_does_not_rename_the_states_of_the_machines() -> None:
    w = world()
    w.settle()
    before = status_of(w.view())
    w.change(systemRef={"name": "b"})
    view = w.view()
    broken = status_of(replace(view, systems={"b": SpecInvalid("no")}, old_status=before))
    assert (broken.system_name, {machine.system_name for machine in broken.machines}) == ("b", {"a"})
    assert status_of(replace(view, old_status=broken)).history[-1].from_system_name == "a"


def test_isolation_is_a_condition_of_its_own() -> None:
    w = world(isolation={"mode": "Instance"})
    assert conditions(status_of(w.view()))["Isolated"] == "False"
    w.settle()
    assert conditions(status_of(w.view()))["Isolated"] == "True"
    w.change(isolation=None)
    assert "Isolated" not in conditions(status_of(w.view()))


def changed_bytes(old: SystemInstanceStatus, new: SystemInstanceStatus) -> int:
    """Bytes of the patch after a change."""
    return len(json.dumps(status_operations(old.to_api(), new.to_api())))


def test_the_change_of_one_machine_of_ten_writes_at_most_two_kibibytes() -> None:
    w = world(isolation={"mode": "Instance"})
    state = System("ten", None, tuple(MachineChange(f"machine-{number}", "web") for number in range(10)))
    w.systems["ten"] = state
    w.change(systemRef={"name": "ten"})
    w.settle()
    view = w.view()
    running = status_of(view)
    assert conditions(running)["Ready"] == "True"
    for vmi in ({"phase": "Failed", "ready": False}, {"ready": False}, {"paused": True}):
        changed = status_of(replace(with_machines(view, "machine-3", vmi=vmi), old_status=running))
        assert changed.machines != running.machines
        assert 200 < changed_bytes(running, changed) <= 2048
    off = replace(with_machines(view, "machine-3", is_off=True, vm={"message": "x" * 500}), old_status=running)
    assert changed_bytes(running, status_of(off)) <= 2048


def test_a_long_message_of_kubevirt_is_cut() -> None:
    w = world()
    w.settle()
    view = w.view()
    name = view.machines[0].vm.machine
    status = status_of(with_machines(view, name, vm={"message": "x" * 1000}, vmi={"phase": "Scheduling"}))
    found = next(m.message for m in status.machines if m.message)
    assert len(found) == MAX_MESSAGE
