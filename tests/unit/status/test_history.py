"""Every switch and reset is recorded once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kigi.api.deployment import HistoryEntry, SystemDeploymentSpec, SystemDeploymentStatus
from kigi.mirror.parse_kigi import spec_manager
from kigi.planning.deployment import plan_deployment
from kigi.status.deployments import deployment_status
from kigi.status.history import MAX_ENTRIES, entry_text, new_entries, ranges
from tests.support.worlds import World


class Recorded:
    """A world, and the history in its deployment's status after each reconcile."""

    def __init__(self, **fields: Any) -> None:
        self.world = World(SystemDeploymentSpec.model_validate({"system": {"name": "a"}, **fields}))
        self.status: SystemDeploymentStatus | None = None

    def reconcile(self) -> list[HistoryEntry]:
        view = replace(self.world.view(), old_status=self.status, changed_by="argocd")
        self.status = deployment_status(view, plan_deployment(view))
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
    assert (first.action, first.by, first.instances, first.machines) == ("Deployed", "argocd", [0, 1, 2], [])
    assert (first.from_system, first.to_system) == (None, "a")
    switched = recorded.change(system={"name": "b"})
    assert (switched.action, switched.from_system, switched.to_system) == ("Switched", "a", "b")
    reset = recorded.change(reset="monday")
    assert (reset.action, reset.token, reset.instances) == ("Reset", "monday", [0, 1, 2])


def test_a_reset_of_one_machine_names_it() -> None:
    recorded = Recorded(replicas=2)
    recorded.reconcile()
    recorded.world.settle()
    overrides = [{"instance": 1, "machines": [{"name": "db", "reset": "x"}]}]
    entry = recorded.change(overrides=overrides)
    assert (entry.action, entry.instances, entry.machines, entry.token) == ("Reset", [1], ["db"], "x")
    assert entry_text(entry) == "a -> a: 1 instances (1), machines db, token 'x', by argocd"


def test_a_lost_disk_is_recorded_as_renewed() -> None:
    recorded = Recorded()
    recorded.reconcile()
    recorded.world.settle()
    recorded.reconcile()
    node = next(iter(recorded.world.view().volumes)).node
    view = replace(recorded.world.view(), old_status=recorded.status, changed_by="argocd")
    view = replace(view, nodes={name: state for name, state in view.nodes.items() if name != node})
    history = deployment_status(view, plan_deployment(view)).history
    assert {entry.action for entry in history[1:]} == {"Renewed"}


def test_the_next_operator_records_what_a_dead_one_did_not() -> None:
    recorded = Recorded()
    recorded.reconcile()
    recorded.world.settle()
    recorded.reconcile()
    recorded.world.change(reset="1")
    recorded.world.settle()  # all steps are done, and no status was written
    assert recorded.reconcile()[-1].action == "Reset"


def test_the_oldest_entries_are_dropped() -> None:
    recorded = Recorded()
    for number in range(MAX_ENTRIES + 5):
        recorded.world.change(reset=str(number))
        recorded.reconcile()
        recorded.world.settle()
    history = recorded.reconcile()
    assert len(history) == MAX_ENTRIES
    assert history[-1].token == str(MAX_ENTRIES + 4)


def test_events_are_emitted_for_new_entries_only() -> None:
    recorded = Recorded()
    old = list(recorded.reconcile())
    recorded.world.settle()
    recorded.world.change(reset="1")
    assert [entry.action for entry in new_entries(old, recorded.reconcile())] == ["Reset"]


def test_consecutive_instances_are_written_as_ranges() -> None:
    assert ranges([5, 0, 1, 2]) == "0-2, 5"


def test_the_last_writer_of_the_spec_is_found_in_managed_fields() -> None:
    fields = [
        {"manager": "kubectl", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {}}},
        {"manager": "kigi-cli", "time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:spec": {"f:reset": {}}}},
        {"manager": "kigi-operator", "time": "2026-01-03T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
        {"manager": "x", "time": "2026-01-04T00:00:00Z", "subresource": "status", "fieldsV1": {"f:spec": {}}},
    ]
    assert spec_manager({"managedFields": fields}) == "kigi-cli"
    assert spec_manager({}) == ""
