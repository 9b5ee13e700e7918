"""The kinds keep the rules for every schema, and each rule finds what it is for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tools import crdlint
from tools.crdgen import KINDS, Schema, build_crd
from tools.crdrules import RULES
from tools.crdwalk import fields_of

TEXT: Schema = {"type": "string", "maxLength": 63}
NAME: Schema = {"name": TEXT}
REF: Schema = {"type": "object", "properties": {"name": TEXT | {"description": "Name; default: none."}}}
COUNT: Schema = {"type": "integer", "format": "int32"}


def crd(spec: Schema | None = None, status: Schema | None = None, **version: Any) -> Schema:
    """A CRD with these fields that keeps every rule, apart from what the fields break."""
    properties = {
        "spec": {"type": "object", "properties": spec or {}},
        "status": {
            "type": "object",
            "default": {"observedGeneration": -1},
            "properties": {"observedGeneration": {"type": "integer", "format": "int64", "default": -1}}
            | (status or {}),
        },
    }
    schema = {"openAPIV3Schema": {"type": "object", "properties": described(properties)}}
    whole = {"subresources": {"status": {}}, "additionalPrinterColumns": [], "schema": schema} | version
    return {"spec": {"names": {"kind": "Kind"}, "versions": [whole]}}


def described(properties: Schema) -> Schema:
    """Copies with a description that keeps every rule, where there is none."""
    found = copy.deepcopy(properties)
    for field in found.values():
        field.setdefault("description", "Bytes, seconds or milliseconds; in this namespace by default.")
        for inner in (field, field.get("items", {}), field.get("additionalProperties", {})):
            if "properties" in inner:
                inner["properties"] = described(inner["properties"])
    return found


def listed(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "maxItems": 8, "x-kubernetes-list-type": "atomic", "items": items} | more


def column(path: str, priority: int = 0, name: str = "C") -> Schema:
    return {"name": name, "type": "string", "jsonPath": path} | ({"priority": priority} if priority else {})


def problems(*crds: Schema) -> list[str]:
    return [problem.key for problem in crdlint.lint(crds)]


def test_the_kinds_keep_every_rule() -> None:
    found = crdlint.lint(build_crd(kind) for kind in KINDS)
    assert [f"{problem.key}: {problem.message}" for problem in found] == []


def test_a_schema_that_keeps_all_rules_has_no_problem() -> None:
    spec = {
        "parentRef": {"type": "object", "properties": NAME | {"namespace": TEXT}},
        "prefetchRefs": listed(REF),
        "machines": listed(
            {"type": "object", "properties": NAME | {"removed": {"type": "boolean"}}},
            **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
        "mode": {"type": "string", "enum": ["A", "B"], "description": "A (default) or B; further values may be added."},
        "timeoutSeconds": COUNT,
        "startTime": {"type": "string", "format": "date-time"},
        "writeLimit": {"x-kubernetes-int-or-string": True},
        "labels": {"type": "object", "maxProperties": 8, "additionalProperties": TEXT},
    }
    status = {"heldBytes": {"type": "integer", "format": "int64"}, "state": TEXT, "readyReplicas": COUNT}
    columns = [column(".status.state"), column(".status.heldBytes", 1), column(".metadata.creationTimestamp")]
    selectable = [{"jsonPath": ".spec.parentRef.name"}]
    assert problems(crd(spec, status, additionalPrinterColumns=columns, selectableFields=selectable)) == []


BREAKS = [
    pytest.param(
        {"a": listed({"type": "object", "properties": {"b": TEXT | {"default": "x"}}})},
        "no-default-in-items Kind.spec.a[].b",
        id="default-in-items",
    ),
    pytest.param({"a": COUNT | {"default": 1}}, "no-default Kind.spec.a", id="default"),
    pytest.param({"a": {"type": "number"}}, "no-float Kind.spec.a", id="float"),
    pytest.param({"a": {"type": "boolean"}}, "no-boolean Kind.spec.a", id="boolean"),
    pytest.param(
        {"a": {"type": "array", "maxItems": 1, "items": TEXT}}, "list-type Kind.spec.a", id="list-without-type"
    ),
    pytest.param(
        {"a": {"type": "array", "x-kubernetes-list-type": "set", "items": TEXT}},
        "max-items Kind.spec.a",
        id="list-without-bound",
    ),
    pytest.param({"a": {"type": "string"}}, "max-length Kind.spec.a", id="string"),
    pytest.param({"a": listed({"type": "string"})}, "max-length Kind.spec.a[]", id="string-in-a-list"),
    pytest.param(
        {"a": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}}},
        "max-length Kind.spec.a{}",
        id="string-in-a-map",
    ),
    pytest.param({"a": {"type": "object", "additionalProperties": TEXT}}, "max-properties Kind.spec.a", id="map"),
    pytest.param(
        {"a": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        "closed-object Kind.spec.a",
        id="open-object",
    ),
    pytest.param({"parent": REF}, "reference-name Kind.spec.parent", id="reference-without-suffix"),
    pytest.param({"prefetch": listed(REF)}, "reference-name Kind.spec.prefetch[]", id="references-without-suffix"),
    pytest.param({"parentRef": TEXT}, "reference-type Kind.spec.parentRef", id="reference-that-is-a-text"),
    pytest.param({"aRefs": listed(TEXT)}, "reference-type Kind.spec.aRefs", id="references-that-are-texts"),
    pytest.param(
        {"aRefs": listed(REF, **{"x-kubernetes-list-type": "map"})},
        "reference-key Kind.spec.aRefs",
        id="references-with-a-key",
    ),
    pytest.param({"startedAt": {"type": "string", "format": "date-time"}}, "suffix Kind.spec.startedAt", id="at"),
    pytest.param({"start": {"type": "string", "format": "date-time"}}, "suffix Kind.spec.start", id="time-unnamed"),
    pytest.param({"startTime": TEXT}, "suffix Kind.spec.startTime", id="time-as-text"),
    pytest.param({"sizeBytes": COUNT}, "suffix Kind.spec.sizeBytes", id="bytes-of-32-bits"),
    pytest.param({"delaySeconds": TEXT}, "suffix Kind.spec.delaySeconds", id="seconds-as-text"),
    pytest.param(
        {"sizeBytes": {"type": "integer", "format": "int64", "maximum": 2**60}},
        "exact-number Kind.spec.sizeBytes",
        id="inexact",
    ),
    pytest.param(
        {"mode": {"type": "string", "enum": ["A", "B"], "description": "A (default) or B."}},
        "more-values Kind.spec.mode",
        id="enum",
    ),
    pytest.param({"a": TEXT | {"description": "default"}}, "sentence Kind.spec.a", id="not-a-sentence"),
    pytest.param(
        {"sizeBytes": {"type": "integer", "format": "int64", "description": "How much, by default."}},
        "unit Kind.spec.sizeBytes",
        id="bytes-without-unit",
    ),
    pytest.param({"waitSeconds": COUNT | {"description": "Time to wait; default 1."}}, "unit Kind.spec.waitSeconds"),
    pytest.param({"a": TEXT | {"description": "Some text."}}, "absence Kind.spec.a", id="absence"),
    pytest.param(
        {"imageRef": REF | {"description": "The image."}}, "place Kind.spec.imageRef", id="reference-without-place"
    ),
]


@pytest.mark.parametrize(("spec", "key"), BREAKS)
def test_a_broken_rule_is_found_at_its_field(spec: Schema, key: str) -> None:
    assert problems(crd(spec)) == [key]


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        (TEXT | {"enum": ["A"]}, "enum"),
        (COUNT | {"minimum": 0}, "minimum"),
        (COUNT | {"maximum": 100}, "maximum"),
        (TEXT | {"pattern": "^a$"}, "pattern"),
    ],
)
def test_a_status_is_open(schema: Schema, keyword: str) -> None:
    assert problems(crd(status={"a": schema})) == ["open-status Kind.status.a"], keyword


def test_the_status_of_a_condition_is_kubernetes_own() -> None:
    item = {"type": "object", "properties": {"type": TEXT, "status": {"type": "string", "enum": ["True", "False"]}}}
    conditions = listed(item, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
    assert problems(crd(status={"conditions": conditions})) == []


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ([column(".status.a", name=f"C{number}") for number in range(7)], "columns Kind"),
        ([column(".status.list[*].name")], "columns Kind.C"),
        ([column(".status.heldBytes")], "columns Kind.C"),
        ([column('.status.conditions[?(@.type=="Ready")].message')], "columns Kind.C"),
        ([column(".status.missing")], "columns Kind.C"),
    ],
)
def test_columns_are_short_and_lead_to_fields(columns: list[Schema], key: str) -> None:
    item = {"type": "object", "properties": NAME | {"message": TEXT}}
    status = {"a": TEXT, "list": listed(item), "conditions": listed(item)}
    status["heldBytes"] = {"type": "integer", "format": "int64"}
    assert problems(crd(status=status, additionalPrinterColumns=columns)) == [key]


def test_references_are_selectable_and_what_is_selectable_exists() -> None:
    assert problems(crd({"systemRef": REF})) == ["selectable Kind.spec.systemRef.name"]
    assert problems(crd(selectableFields=[{"jsonPath": ".spec.gone"}])) == ["selectable Kind.spec.gone"]


def test_a_status_without_the_subresource_or_with_a_phase_is_found() -> None:
    assert problems(crd(subresources={})) == ["kstatus Kind"]
    bare = crd()
    del bare["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    assert problems(bare) == ["kstatus Kind"]
    assert problems(crd(status={"phase": TEXT})) == ["kstatus Kind.status.phase"]


def test_every_rule_is_broken_by_a_case() -> None:
    """A rule without a case could be empty."""
    broken = {case.values[1].split()[0].replace("-", "_") for case in BREAKS}
    by_field = {rule.__name__ for rule in RULES if not rule.__name__.startswith(("_", "size"))}
    assert by_field - broken == {"open_status"}


def test_fields_are_walked_through_lists_and_maps() -> None:
    spec = {"a": listed({"type": "object", "properties": {"b": {"type": "object", "additionalProperties": TEXT}}})}
    fields = {field.path: field.in_items for field in fields_of(crd(spec))}
    assert fields["Kind.spec.a"] is False
    assert fields["Kind.spec.a[].b{}"] is True
    assert "Kind.status.observedGeneration" in fields


def test_the_command_fails_at_any_problem_and_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert crdlint.main([]) == 0
    assert capsys.readouterr().err == ""
    broken = crd({"ratio": {"type": "number"}})
    monkeypatch.setattr(crdlint, "build_crd", lambda kind: broken)
    monkeypatch.setattr(crdlint, "KINDS", (object,))
    assert crdlint.main([]) == 1
    assert "no-float Kind.spec.ratio: no floats" in capsys.readouterr().err
