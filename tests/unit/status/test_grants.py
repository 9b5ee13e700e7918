from __future__ import annotations

from datetime import UTC, datetime

from kigi.api.grant import TreeGrantSpec
from kigi.api.selectors import LabelSelector
from kigi.domain.grants import Grant, GrantTarget
from kigi.gather.grants import gather_grant
from kigi.mirror.store import Mirror
from kigi.planning.view import GrantView
from kigi.status.grants import grant_status
from tests.support.bodies import namespace_body, system_body, with_meta
from tests.support.kstatus import check

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OFFICE = GrantTarget("SystemNode", "office")


def view(*missing: GrantTarget, namespaces: int = 2) -> GrantView:
    return GrantView(3, Grant(LabelSelector(), (OFFICE,)), missing, namespaces, NOW)


def grant_body(version: int = 1, **spec: object) -> dict[str, object]:
    spec = {"from": {"namespaceSelector": {"matchLabels": {"team": "red"}}}, **spec}
    spec.setdefault("to", [{"kind": "SystemNode", "name": "office"}, {"kind": "VMImageNode", "name": "base"}])
    return with_meta({"kind": "TreeGrant", "metadata": {"name": "g", "namespace": "library"}, "spec": spec}, version)


def test_a_grant_whose_targets_exist_is_ready_and_counts_namespaces() -> None:
    status = grant_status(view())
    ready = next(c for c in status.conditions if c.type == "Ready")
    assert (ready.status, ready.reason, ready.message) == ("True", "Granted", "1 tree nodes for 2 other namespaces")
    assert (status.namespace_count, status.observed_generation) == (2, 3)
    assert check({"metadata": {"generation": 3}, "status": status.to_api()}) == "Current"


def test_what_a_grant_names_and_does_not_exist_is_listed() -> None:
    many = tuple(GrantTarget("VMImageNode", f"i{n}") for n in range(10))
    status = grant_status(view(*many))
    ready, reconciling, stalled = status.conditions
    assert (ready.status, ready.reason, reconciling.status, stalled.status) == (
        "False",
        "TargetMissing",
        "True",
        "False",
    )
    assert "VMImageNode i7, and 2 more: not in this namespace" in ready.message
    assert check({"metadata": {"generation": 3}, "status": status.to_api()}) == "InProgress"


def test_the_view_counts_other_namespaces_that_are_selected() -> None:
    mirror = Mirror()
    for name, team in (("library", "red"), ("a", "red"), ("b", "blue"), ("c", "red")):
        mirror.put("Namespace", namespace_body(name, team=team))
    mirror.put("SystemNode", system_body("office", [], namespace="library"))
    mirror.put("TreeGrant", grant_body())
    record = mirror.grants.get("library", "g")
    assert record is not None
    found = gather_grant(mirror, record, NOW)
    assert found.namespace_count == 2
    assert found.missing == (GrantTarget("VMImageNode", "base"),)


def test_no_status_field_can_name_a_namespace() -> None:
    """Counts only: the library's owner gives use, and does not learn who uses."""
    names = [f"zzsecret-{number}" for number in range(3)]
    mirror = Mirror()
    mirror.put("Namespace", namespace_body("library"))
    for name in names:
        mirror.put("Namespace", namespace_body(name, team="red"))
    mirror.put("TreeGrant", grant_body())
    record = mirror.grants.get("library", "g")
    assert record is not None
    status = grant_status(gather_grant(mirror, record, NOW))
    assert status.namespace_count == 3
    assert "zzsecret" not in str(status.to_api())


def test_an_invalid_grant_and_one_that_is_being_deleted_are_not_in_force() -> None:
    mirror = Mirror()
    mirror.put("TreeGrant", grant_body())
    record = mirror.grants.get("library", "g")
    assert record is not None
    assert record.in_force is not None
    deleting = grant_body(2)
    deleting["metadata"] = {**deleting["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}  # type: ignore[dict-item]
    for body in (deleting, grant_body(3, to=[{"kind": "Pod", "name": "x"}])):
        mirror.put("TreeGrant", body)
        record = mirror.grants.get("library", "g")
        assert record is not None
        assert record.in_force is None


def test_the_model_takes_the_fields_as_the_api_writes_them() -> None:
    spec = TreeGrantSpec.model_validate(grant_body()["spec"])
    assert spec.to_api()["from"] == {"namespaceSelector": {"matchLabels": {"team": "red"}}}
