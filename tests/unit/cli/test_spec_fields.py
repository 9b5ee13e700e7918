"""An edit sets exactly its field, and is refused if another field manager keeps the field."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.cli.spec_fields import FieldOwned, Part, owners, refuse_owned, with_field

SPEC = {"system": {"name": "a"}, "overrides": [{"instance": 2, "machines": [{"name": "db", "running": False}]}]}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part(), {**SPEC, "reset": "x"}),
        (Part(1), {**SPEC, "overrides": [*SPEC["overrides"], {"instance": 1, "reset": "x"}]}),
        (Part(2), {**SPEC, "overrides": [{**SPEC["overrides"][0], "reset": "x"}]}),
        (
            Part(2, "db"),
            {**SPEC, "overrides": [{"instance": 2, "machines": [{"name": "db", "running": False, "reset": "x"}]}]},
        ),
        (
            Part(2, "web"),
            {
                **SPEC,
                "overrides": [
                    {
                        "instance": 2,
                        "machines": [{"name": "db", "running": False}, {"name": "web", "reset": "x"}],
                    }
                ],
            },
        ),
    ],
)
def test_the_field_is_set_and_nothing_else(part: Part, expected: dict[str, Any]) -> None:
    before = repr(SPEC)
    assert with_field(SPEC, part, "reset", "x") == expected
    assert repr(SPEC) == before


def body(manager: str, operation: str, fields: dict[str, Any]) -> dict[str, Any]:
    entry = {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": fields}}
    return {"metadata": {"name": "office", "managedFields": [entry]}, "spec": SPEC}


SYSTEM = {"f:system": {"f:name": {}}}
OVERRIDE = {"f:overrides": {'k:{"instance":2}': {".": {}, "f:reset": {}}}}


@pytest.mark.parametrize(
    ("manager", "operation"),
    [("kustomize-controller", "Apply"), ("argocd-controller", "Update"), ("kubectl", "Apply")],
)
def test_a_field_that_a_pipeline_keeps_is_refused_with_its_name(manager: str, operation: str) -> None:
    with pytest.raises(FieldOwned, match=f"spec.system .* kept by {manager}.*--instance"):
        refuse_owned(body(manager, operation, SYSTEM), Part(), "system", {"name": "b"})


def test_a_field_without_an_owner_or_with_the_value_already_is_written() -> None:
    kept = body("argocd-controller", "Update", SYSTEM)
    refuse_owned(kept, Part(), "system", {"name": "a"})
    refuse_owned(kept, Part(), "reset", "x")
    refuse_owned(kept, Part(2), "system", {"name": "b"})
    refuse_owned(body("kubectl-edit", "Update", SYSTEM), Part(), "system", {"name": "b"})
    refuse_owned(body("kigi-cli", "Update", SYSTEM), Part(), "system", {"name": "b"})


def test_an_override_that_a_pipeline_keeps_is_refused_too() -> None:
    kept = body("flux", "Apply", OVERRIDE)
    with pytest.raises(FieldOwned, match=r"overrides\[instance 2\].reset"):
        refuse_owned(kept, Part(2), "reset", "x")
    refuse_owned(kept, Part(3), "reset", "x")
    assert owners(kept["metadata"], Part(2).managed_path("reset")) == [("flux", "Apply")]
