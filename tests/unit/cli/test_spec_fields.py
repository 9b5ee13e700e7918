"""An edit sets exactly its field, and is refused if another field manager keeps the field."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.cli.spec_fields import FieldOwned, Part, owners, refuse_owned, with_field

SPEC = {"systemRef": {"name": "a"}, "machines": [{"name": "db", "powerState": "Off"}]}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part(), {**SPEC, "field": "x"}),
        (Part("7"), {**SPEC, "field": "x"}),
        (Part("7", "db"), {**SPEC, "machines": [{"name": "db", "powerState": "Off", "field": "x"}]}),
        (Part("7", "web"), {**SPEC, "machines": [*SPEC["machines"], {"name": "web", "field": "x"}]}),
    ],
)
def test_the_field_is_set_and_nothing_else(part: Part, expected: dict[str, Any]) -> None:
    before = repr(SPEC)
    assert with_field(SPEC, part, "field", "x") == expected
    assert repr(SPEC) == before


@pytest.mark.parametrize(
    ("part", "kind", "name"), [(Part(), "SystemDeployment", "office"), (Part("7", "db"), "SystemInstance", "office-7")]
)
def test_a_part_has_an_object(part: Part, kind: str, name: str) -> None:
    assert (part.kind, part.object_name("office")) == (kind, name)


def body(manager: str, operation: str, fields: dict[str, Any]) -> dict[str, Any]:
    entry = {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": fields}}
    return {"metadata": {"name": "office", "managedFields": [entry]}, "spec": SPEC}


SYSTEM = {"f:systemRef": {"f:name": {}}}
MACHINE = {"f:machines": {'k:{"name":"db"}': {".": {}, "f:systemRef": {}}}}


@pytest.mark.parametrize(
    ("manager", "operation"),
    [("kustomize-controller", "Apply"), ("argocd-controller", "Update"), ("kubectl", "Apply")],
)
def test_a_field_that_a_pipeline_keeps_is_refused_with_its_name(manager: str, operation: str) -> None:
    with pytest.raises(FieldOwned, match=f"spec.systemRef .* kept by {manager}.*--instance"):
        refuse_owned(body(manager, operation, SYSTEM), Part(), "systemRef", {"name": "b"})


def test_a_field_without_an_owner_or_with_the_value_already_is_written() -> None:
    kept = body("argocd-controller", "Update", SYSTEM)
    refuse_owned(kept, Part(), "systemRef", {"name": "a"})
    refuse_owned(kept, Part(), "resetToken", "x")
    refuse_owned(kept, Part("7", "db"), "systemRef", {"name": "b"})
    refuse_owned(body("kubectl-edit", "Update", SYSTEM), Part(), "systemRef", {"name": "b"})
    refuse_owned(body("kigi-cli", "Update", SYSTEM), Part(), "systemRef", {"name": "b"})


def test_a_machine_that_a_pipeline_keeps_is_refused_too() -> None:
    kept = body("flux", "Apply", MACHINE)
    with pytest.raises(FieldOwned, match=r"spec.machines\[db\].systemRef of SystemInstance"):
        refuse_owned(kept, Part("7", "db"), "systemRef", {"name": "b"})
    refuse_owned(kept, Part("7", "web"), "systemRef", {"name": "b"})
    assert owners(kept["metadata"], Part("7", "db").managed_path("systemRef")) == [("flux", "Apply")]
