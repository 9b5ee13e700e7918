"""Every switch and reset is recorded once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kigi.api.instance import MAX_HISTORY, HistoryEntry, SystemInstanceStatus
from kigi.mirror.parse_kigi import spec_manager
from kigi.planning.instance import plan_instance
from kigi.status.history import ONE_DECISION, entry_text, history, new_entries
from kigi.status.instance import instance_status
from kigi.status.machines import machine_status
from tests.support.worlds import World, deployment_spec


class Recorded:
    """A world, and the history in the status of its first instance after each reconcile."""

    def __init__(self, **fields: Any) -> None:
        self.world = World(deployment_spec(**fields))
        self.status: SystemInstanceStatus | None = None

    def reconcile(self) -> list[HistoryEntry]:
        view = replace(self.world.view(), old_status=self.status, changed_by="argocd")
        self.status = instance_status(view, plan_instance(view))
        return self.status.history

    def change(self, **fields: Any) -> HistoryEntry:
        """The entry of a change; it is recorded when the change is planned, and not again when it is done."""
        before = len(self.reconcile())
        self.world.change(**fields)
        decided = self.reconcile()
        self.world.settle()
        assert self.reconcile() == decided
        assert len(decided) == before + 1
        return decided[-1]


def test_deployment_switch_and_reset_are_recorded_once_each() -> None:
    recorded = Recorded(replicas=3)
    (first,) = recorded.reconcile()
    recorded.world.settle()
    assert recorded.reconcile() == [first]
    assert (first.action, first.requested_by, first.machine_count, first.machines) == ("Deployed", "argocd", 2, [])
    assert (first.from_system_name, first.to_system_name) == (None, "a")
    switched = recorded.change(systemRef={"name": "b"})
    assert (switched.action, switched.from_system_name, switched.to_system_name) == ("Switched", "a", "b")
    reset = recorded.change(resetToken="monday")
    assert (reset.action, reset.from_system_name, reset.machine_count) == ("Reset", "b", 2)
    assert entry_text(reset) == "b -> b: 2 machines, by argocd"


def test_a_switch_of_one_machine_names_it() -> None:
    recorded = Recorded(state="b", updateStrategy={"onSwitch": "ReplaceChanged"})
    recorded.reconcile()
    recorded.world.settle()
    recorded.reconcile()
    recorded.world.change_instance("0", machines=[{"name": "db", "systemRef": {"name": "a"}}])
    entry = recorded.reconcile()[-1]
    assert (entry.action, entry.machine_count, entry.machines) == ("Switched", 1, ["db"])
    assert (entry.from_system_name, entry.to_system_name) == ("b", "a")
    assert entry_text(entry) == "b -> a: 1 machines (db), by argocd"


def test_changes_of_one_decision_about_other_machines_are_one_entry() -> None:
    recorded = Recorded()
    view = recorded.world.view()
    plan = plan_instance(view)
    (first,) = history(view, plan.placed[:1])
    assert (first.machine_count, first.machines) == (1, ["db"])
    status = SystemInstanceStatus(history=[first], machines=[machine_status(plan.placed[0], "a")], system_name="a")
    (joined,) = history(replace(view, old_status=status), plan.placed)
    assert (joined.machine_count, joined.machines) == (2, [])
    later = replace(view, old_status=status, now=view.now + 2 * ONE_DECISION)
    assert [entry.machine_count for entry in history(later, plan.placed)] == [1, 1]


def test_a_lost_disk_is_recorded_as_renewed() -> None:
    recorded = Recorded()
    recorded.reconcile()
    recorded.world.settle()
    recorded.reconcile()
    node = next(iter(recorded.world.view().volumes)).node
    view = replace(recorded.world.view(), old_status=recorded.status, changed_by="argocd")
    view = replace(view, nodes={name: state for name, state in view.nodes.items() if name != node})
    found = instance_status(view, plan_instance(view)).history
    assert {entry.action for entry in found[1:]} == {"Renewed"}


def test_the_next_operator_records_what_a_dead_one_did_not() -> None:
    recorded = Recorded()
    recorded.reconcile()
    recorded.world.settle()
    recorded.reconcile()
    recorded.world.change(resetToken="1")
    recorded.world.settle()  # all steps are done, and no status was written
    assert recorded.reconcile()[-1].action == "Reset"


def test_the_oldest_entries_are_dropped() -> None:
    recorded = Recorded()
    for number in range(MAX_HISTORY + 5):
        recorded.world.change(resetToken=str(number))
        recorded.reconcile()
        recorded.world.settle()
    found = recorded.reconcile()
    assert len(found) == MAX_HISTORY
    assert [entry.action for entry in found] == ["Reset"] * MAX_HISTORY


def test_events_are_emitted_for_new_entries_only() -> None:
    recorded = Recorded()
    old = list(recorded.reconcile())
    recorded.world.settle()
    recorded.world.change(resetToken="1")
    assert [entry.action for entry in new_entries(old, recorded.reconcile())] == ["Reset"]


def test_the_last_writer_of_the_spec_is_found_in_managed_fields() -> None:
    fields = [
        {"manager": "kubectl", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {}}},
        {"manager": "kigi-cli", "time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:spec": {"f:reset": {}}}},
        {"manager": "kigi-operator", "time": "2026-01-03T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
        {"manager": "x", "time": "2026-01-04T00:00:00Z", "subresource": "status", "fieldsV1": {"f:spec": {}}},
    ]
    assert spec_manager({"managedFields": fields}) == "kigi-cli"
    assert spec_manager({}) == ""
