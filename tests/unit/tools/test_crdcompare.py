"""Changes that break stored objects, manifests or clients are found; those that do not are not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.unit.api.test_lint import crd
from tools import crdcompare
from tools.crdcompare import Change, changes, compare
from tools.crdgen import Schema

BASE: Schema = {
    "type": "object",
    "required": ["a"],
    "properties": {
        "a": {"type": "string", "maxLength": 10, "enum": ["X", "Y"]},
        "b": {"type": "array", "maxItems": 4, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "c": {"type": "object", "additionalProperties": {"type": "integer", "format": "int32", "minimum": 1}},
        "d": {"type": "string", "pattern": "^x$", "default": "x"},
    },
    "x-kubernetes-validations": [{"rule": "true", "message": "m"}],
}


def edited(path: str, **fields: Any) -> Schema:
    """The base with fields of one part changed; None removes a field."""
    schema = copy.deepcopy(BASE)
    part: Any = schema
    for key in filter(None, path.split(".")):
        part = part[key]
    for key, value in fields.items():
        if value is None:
            del part[key.replace("_", "-")]
        else:
            part[key.replace("_", "-")] = value
    return schema


ITEMS = "properties.b"
BREAKING = [
    pytest.param(edited("properties", d=None), Change("K.d", "removed"), id="removed"),
    pytest.param(edited("", required=["a", "b"]), Change("K.b", "required now"), id="required"),
    pytest.param(edited("properties.a", maxLength=5), Change("K.a", "maxLength is 5 now, and was 10"), id="shorter"),
    pytest.param(
        edited("properties.d", maxLength=5), Change("K.d", "maxLength is 5 now, and was unlimited"), id="limited"
    ),
    pytest.param(edited("properties.b", maxItems=3), Change("K.b", "maxItems is 3 now, and was 4"), id="fewer"),
    pytest.param(
        edited("properties.c.additionalProperties", minimum=2), Change("K.c{}", "minimum is 2 now, and was 1"), id="map"
    ),
    pytest.param(
        edited("properties.b.items", pattern="^a$"), Change("K.b[]", "pattern is ^a$ now, and was None"), id="pattern"
    ),
    pytest.param(
        edited("properties.c.additionalProperties", format="int64"),
        Change("K.c{}", "format is int64 now, and was int32"),
        id="format",
    ),
    pytest.param(edited("properties.a", enum=["X"]), Change("K.a", "no longer accepts ['Y']"), id="value-gone"),
    pytest.param(
        edited("properties.a", enum=["X", "Y", "Z"]),
        Change("K.a", "a client of the last release does not know ['Z']"),
        id="value-added",
    ),
    pytest.param(edited("properties.d", enum=["x"]), Change("K.d", "no longer accepts ['any value']"), id="closed"),
    pytest.param(edited("properties.d", default="y"), Change("K.d", "default is y now, and was x"), id="default"),
    pytest.param(
        edited("", x_kubernetes_validations=[{"rule": "false", "message": "no"}]),
        Change("K", "a new rule: no"),
        id="rule",
    ),
]


@pytest.mark.parametrize(("new", "change"), BREAKING)
def test_a_breaking_change_is_found(new: Schema, change: Change) -> None:
    assert list(changes("K", BASE, new)) == [change]


@pytest.mark.parametrize(
    "new",
    [
        BASE,
        edited("properties", e={"type": "string"}),
        edited("properties.a", maxLength=11),
        edited("properties.a", maxLength=None),
        edited("properties.a", description="better words"),
        edited("properties.d", pattern=None),
        edited("properties.c.additionalProperties", minimum=0),
        edited("", required=[]),
        edited("", x_kubernetes_validations=None),
    ],
    ids=["equal", "new", "longer", "unlimited", "described", "looser", "lower", "optional", "fewer-rules"],
)
def test_a_compatible_change_is_none(new: Schema) -> None:
    assert list(changes("K", BASE, new)) == []


def test_a_kind_is_compared_within_one_version() -> None:
    old, new = crd({"a": {"type": "string"}}, name="v1beta1"), crd({}, name="v1beta1")
    assert list(compare({"K": old}, {"K": new})) == [("v1beta1", [Change("K.spec.a", "removed")])]
    assert list(compare({"K": old}, {"K": crd({}, name="v1")})) == []
    moved = crd({}, name="v1beta1")
    moved["spec"]["group"] = "another.group"
    assert list(compare({"K": old}, {"K": moved})) == []
    assert list(compare({"K": old}, {})) == [("v1beta1", [Change("K", "removed")])]


@pytest.mark.parametrize(("version", "code"), [("v1alpha2", 0), ("v1beta1", 1), ("v1", 1)])
def test_only_an_alpha_version_may_change(
    version: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crdcompare, "released", lambda: {"object": crd({"a": {"type": "string"}}, name=version)})
    monkeypatch.setattr(crdcompare, "KINDS", (object,))
    monkeypatch.setattr(crdcompare, "build_crd", lambda kind: crd({}, name=version))
    assert crdcompare.main() == code
    assert capsys.readouterr().out == f"{version} object.spec.a: removed\n"


def test_the_kinds_of_the_last_release_are_stored() -> None:
    assert crdcompare.released().keys() >= {"VMImageNode", "SystemNode", "SystemDeployment", "NodeCache"}
    assert crdcompare.main() == 0
