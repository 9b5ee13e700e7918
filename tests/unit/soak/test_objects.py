"""API objects are reduced to the fields that must not change, without heartbeats and versions."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from soak import objects
from soak.model import Container

CACHE: dict[str, Any] = {
    "kind": "NodeCache",
    "metadata": {
        "name": "n1",
        "uid": "u1",
        "resourceVersion": "7",
        "generation": 3,
        "managedFields": [{"manager": "kigi-cache", "subresource": "status", "time": "T1"}],
    },
    "spec": {"layers": [{"digest": "a"}]},
    "status": {
        "freeBytes": 5,
        "observedGeneration": 3,
        "layers": [{"digest": "a", "state": "Held"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "R", "lastTransitionTime": "T0"}],
    },
}
POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {"name": "p", "namespace": "ns", "uid": "u2", "resourceVersion": "8"},
    "status": {
        "phase": "Running",
        "initContainerStatuses": [
            {"name": "log", "containerID": "c1", "ready": True, "restartCount": 0, "state": {"running": {}}}
        ],
        "containerStatuses": [
            {"name": "compute", "containerID": "c2", "ready": False, "restartCount": 2, "state": {"waiting": {}}}
        ],
    },
}


def changed(item: dict[str, Any], *path: str | int, value: Any) -> dict[str, Any]:
    new = copy.deepcopy(item)
    place: Any = new
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return new


def paths(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [change.path for change in objects.differences("x", objects.essence(old), objects.essence(new))]


@pytest.mark.parametrize(
    "path",
    [("status", "freeBytes"), ("metadata", "resourceVersion")],
    ids=str,
)
def test_a_heartbeat_is_not_a_change(path: tuple[str, ...]) -> None:
    assert paths(CACHE, changed(CACHE, *path, value="9")) == []


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("status", "layers", 0, "state"), "status.layers[0].state"),
        (("status", "layers"), "status.layers"),
        (("spec", "layers", 0, "digest"), "spec.layers[0].digest"),
        (("metadata", "annotations"), "metadata.annotations"),
    ],
)
def test_any_other_change_has_its_path(path: tuple[str | int, ...], named: str) -> None:
    assert paths(CACHE, changed(CACHE, *path, value=[])) == [named]


def test_a_lease_that_is_renewed_is_unchanged_and_its_holder_is_its_phase() -> None:
    lease = {
        "kind": "Lease",
        "metadata": {"name": "l", "namespace": "ns", "uid": "u", "resourceVersion": "1"},
        "spec": {"holderIdentity": "a", "renewTime": "T1", "leaseTransitions": 1},
    }
    assert paths(lease, changed(lease, "spec", "renewTime", value="T2")) == []
    assert objects.state(lease).phase == "a"


def test_state_of_a_pod_has_all_containers() -> None:
    state = objects.state(POD)
    assert objects.key(POD) == "Pod ns/p"
    assert state.phase == "Running"
    assert state.containers == {
        "log": Container("c1", True, 0, "running"),
        "compute": Container("c2", False, 2, "waiting"),
    }


def test_state_has_conditions_version_and_writers() -> None:
    state = objects.state(CACHE)
    assert objects.key(CACHE) == "NodeCache n1"
    assert (state.version, state.writers) == ("7", {"kigi-cache/status": "T1"})
    assert state.conditions["Ready"].transition == "T0"


def test_events_are_counted_by_type_reason_and_object() -> None:
    about = {"kind": "Pod", "namespace": "ns", "name": "p"}
    event = {"type": "Warning", "reason": "Unhealthy", "involvedObject": about, "message": "no", "count": 3}
    items = [
        {**event, "metadata": {"uid": "e1"}},
        {**event, "metadata": {"uid": "e2"}, "count": None, "series": {"count": 4}},
        {**event, "metadata": {"uid": "e3"}, "type": "Normal", "count": None},
    ]
    assert objects.event_counts(items) == {"Warning Unhealthy Pod ns/p": 7, "Normal Unhealthy Pod ns/p": 1}
    assert {uid: event.count for uid, event in objects.warning_events(items).items()} == {"e1": 3, "e2": 4}


def test_stored_objects_are_read_under_both_names_of_the_metric() -> None:
    metrics = """# TYPE apiserver_resource_objects gauge
apiserver_resource_objects{group="node.kigi.dev",resource="nodecaches"} 1
apiserver_resource_objects{group="",resource="pods"} 21
apiserver_resource_objects{group="",resource="events"} 300
apiserver_storage_objects{resource="nodecaches.node.kigi.dev"} 1
apiserver_storage_objects{resource="secrets"} 1.2e+01
apiserver_storage_objects{resource="broken"} -1
"""
    assert objects.stored_objects(metrics) == {"nodecaches.node.kigi.dev": 1, "pods": 21, "secrets": 12}
