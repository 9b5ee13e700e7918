"""Objects of every kind become records, whatever is missing or damaged in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kigi.adapters.kubernetes.resources import WATCHED
from kigi.domain import names
from kigi.domain.kubevirt import LAUNCHER_OVERHEAD_BYTES
from kigi.errors import SpecInvalid
from kigi.mirror.parse import parse
from kigi.mirror.parse_kigi import spec_manager
from kigi.mirror.parse_values import bytes_of, int_of, nested, time_of
from kigi.mirror.records import CacheRecord, DeploymentRecord, ImageRecord, NodeRecord, SystemRecord
from tests.support.bodies import (
    GIB,
    cache_body,
    claim_body,
    csi_node_body,
    deployment_body,
    machine_body,
    node_body,
    system_body,
    target,
    vmi_body,
    volume_body,
)

META = {"name": "x", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
BODIES: dict[str, dict[str, Any]] = {
    body["kind"]: body
    for body in (
        cache_body(),
        claim_body(target()),
        csi_node_body(),
        deployment_body(),
        machine_body(target()),
        node_body(),
        system_body("a", [{"name": "m", "rootDisk": {"imageRef": {"name": "top"}}}]),
        vmi_body(target()),
        volume_body(target()),
    )
}


@pytest.mark.parametrize("kind", [resource.kind for resource in WATCHED])
@pytest.mark.parametrize("body", [{}, {"spec": None, "status": None}, {"spec": {}, "status": {}}], ids=str)
def test_an_object_without_content_has_a_record(kind: str, body: dict[str, Any]) -> None:
    assert parse(kind, {**body, "metadata": META}).meta.name == "x"


def without_each_field(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The object as often as it has fields, each time without one of them or with null in its place."""
    for key, value in body.items():
        rest = {name: other for name, other in body.items() if name != key}
        yield rest
        yield {**rest, key: None}
        if isinstance(value, Mapping):
            yield from ({**rest, key: smaller} for smaller in without_each_field(value))


@pytest.mark.parametrize("kind", BODIES)
def test_an_object_that_lacks_any_of_its_fields_has_a_record(kind: str) -> None:
    """What the API server always sends (the name, the items of lists) stays."""
    for damaged in without_each_field(BODIES[kind]):
        meta = damaged.get("metadata") or {}
        parse(kind, {**damaged, "metadata": {**META, **{key: meta[key] for key in meta if key != "name"}}})


def test_an_unknown_kind_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        parse("Pod", {"metadata": META})


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("VMImageNode", {"layer": {"digest": "md5:1"}}, "spec.layer.digest"),
        ("SystemNode", {"machines": [{"name": "M"}]}, "spec.machines.0.name"),
        ("SystemDeployment", {"systemRef": {"name": "a"}, "replicas": -1}, "spec.replicas"),
        ("SystemCapture", {}, "spec.instanceRef"),
        ("SystemCapture", {"instanceRef": {"name": "a-1"}}, "spec.requestedBy"),
        ("SystemPrefetch", {}, "spec.targetRefs"),
    ],
)
def test_a_spec_that_does_not_validate_is_an_error_with_its_field(kind: str, spec: dict[str, Any], field: str) -> None:
    record: Any = parse(kind, {"metadata": META, "spec": spec})
    error = {ImageRecord: "image", SystemRecord: "system"}.get(type(record), "spec")
    found = getattr(record, error)
    assert isinstance(found, SpecInvalid)
    assert str(found).startswith(f"{kind} x: {field}")


@pytest.mark.parametrize(("machines", "fits"), [(300, True), (400, False)])
def test_a_state_that_leaves_no_space_for_its_status_is_an_error(machines: int, fits: bool) -> None:
    """Its status would be refused by the API server, and lost without a message to anybody."""
    text = "x" * 2000
    spec = {"machines": [{"name": f"m{n}", "note": text} for n in range(machines)]}
    body = {"kind": "SystemNode", "metadata": {"name": "large", "namespace": "ns", "uid": "u"}, "spec": spec}
    found = parse("SystemNode", body).system
    assert isinstance(found, SpecInvalid)
    large = "spec: " in str(found) and "bytes as JSON, at most 716800; move machines to another state" in str(found)
    assert large is not fits


def test_a_status_that_does_not_validate_counts_as_none() -> None:
    record = parse("SystemDeployment", {**deployment_body(), "status": {"replicas": "many"}})
    assert isinstance(record, DeploymentRecord)
    assert record.status is None
    assert not isinstance(record.spec, SpecInvalid)


def test_a_cache_with_a_damaged_spec_is_applied_again_and_its_report_counts() -> None:
    record = parse("NodeCache", {**cache_body(volumes=("v",)), "spec": {"layers": "all"}})
    assert isinstance(record, CacheRecord)
    assert (record.spec, record.wanted_bytes, record.volumes) == (None, 0, frozenset({"v"}))


def test_a_machine_keeps_what_it_drops_and_what_it_sets() -> None:
    machines = [{"name": "m", "unset": ["cpu"], "hardware": {"memory": {"guest": "1Gi"}}}]
    record = parse("SystemNode", system_body("a", machines, parent="b"))
    assert isinstance(record, SystemRecord)
    assert not isinstance(record.system, SpecInvalid)
    assert record.system.machines[0].settings == {"hardware": {"memory": {"guest": "1Gi"}}}
    assert record.system.machines[0].unset == ("cpu",)


@pytest.mark.parametrize(
    ("spec", "memory"),
    [
        ({"template": {"spec": {"domain": {"memory": {"guest": "2Gi"}}}}}, 2 * 2**30 + LAUNCHER_OVERHEAD_BYTES),
        ({"template": {"spec": {"domain": {"memory": {"guest": "much"}}}}}, LAUNCHER_OVERHEAD_BYTES),
        ({}, 512 * 2**20 + LAUNCHER_OVERHEAD_BYTES),
        ({"instancetype": {"name": "small"}}, None),
    ],
    ids=["stated", "damaged", "default", "by-instancetype"],
)
def test_memory_of_a_vm(spec: dict[str, Any], memory: int | None) -> None:
    record: Any = parse("VirtualMachine", {"metadata": META, "spec": spec})
    assert record.memory_bytes == memory


@pytest.mark.parametrize(
    ("body", "schedulable"),
    [
        (node_body(), True),
        (node_body(unschedulable=True), False),
        ({**node_body(), "metadata": {**node_body()["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}, False),
    ],
    ids=["ready", "cordoned", "deleting"],
)
def test_a_node_that_goes_takes_no_disks(body: dict[str, Any], schedulable: bool) -> None:
    record = parse("Node", body)
    assert isinstance(record, NodeRecord)
    assert record.schedulable is schedulable


@pytest.mark.parametrize(
    ("drivers", "found"),
    [([{"name": names.CSI_DRIVER}], True), ([{"name": "other"}], False), (None, False)],
)
def test_the_driver_of_a_node(drivers: Any, found: bool) -> None:
    record: Any = parse("CSINode", {"metadata": META, "spec": {"drivers": drivers}})
    assert record.has_driver is found


def test_the_manager_of_a_spec_is_the_last_one_that_wrote_it() -> None:
    entries = [
        {"manager": "kubectl", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {}}},
        {"manager": "kigi-cli", "time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:spec": {}}},
        {"manager": "labeller", "time": "2026-01-03T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
        {"manager": "operator", "time": "2026-01-04T00:00:00Z", "subresource": "status", "fieldsV1": {"f:spec": {}}},
    ]
    assert spec_manager({"managedFields": entries}) == "kigi-cli"
    assert spec_manager({}) == ""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (bytes_of("1Gi", "0"), 2**30),
        (bytes_of(None, "1Mi"), 2**20),
        (bytes_of("", "1Mi"), 2**20),
        (bytes_of("much", "1Mi"), 0),
        (bytes_of(5, "0"), 5),
        (int_of("7"), 7),
        (int_of(None), 0),
        (int_of("x"), 0),
        (time_of("2026-01-01T00:00:00"), None),
        (time_of("soon"), None),
        (time_of(None), None),
        (nested({"a": {"b": {"c": 1}}}, "a", "b"), {"c": 1}),
        (nested({"a": None}, "a", "b"), {}),
        (nested({}, "a"), {}),
        (nested({"a": [1]}, "a"), {}),
    ],
)
def test_single_values(found: object, expected: object) -> None:
    assert found == expected


def test_a_time_has_its_offset() -> None:
    found = time_of("2026-01-01T00:00:00Z")
    assert found is not None
    assert found.tzinfo is not None


@pytest.mark.parametrize(
    ("status", "usable"),
    [
        ({}, GIB),
        ({"keptFreeBytes": 10, "freeBytes": 2 * GIB, "usedBytes": 0}, GIB),
        ({"keptFreeBytes": 10, "freeBytes": 50, "usedBytes": 30}, 70),
        ({"keptFreeBytes": 100, "freeBytes": 20, "usedBytes": 30}, 0),
        ({"freeBytes": 20, "usedBytes": 30}, GIB),
    ],
    ids=["not-reported", "empty-disk", "overlays-on-it", "full-disk", "earlier-daemon"],
)
def test_overlays_take_space_from_the_layers_of_a_node(status: dict[str, int], usable: int) -> None:
    body = cache_body(budget_bytes=GIB)
    body["status"].update(status)
    record = parse("NodeCache", body)
    assert record.usable_bytes == usable
    assert record.budget_bytes == GIB, "the default limits of namespaces do not shrink while guests write"
