"""Wishes from the command line go into the right field, and never against its owner."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.cli.spec_fields import FieldOwned, Place, owners, refuse_owned, with_field

SPEC = {"system": {"name": "a"}, "overrides": [{"instance": 2, "machines": [{"name": "db", "running": False}]}]}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Place(), {**SPEC, "reset": "x"}),
        (Place(1), {**SPEC, "overrides": [*SPEC["overrides"], {"instance": 1, "reset": "x"}]}),
        (Place(2), {**SPEC, "overrides": [{**SPEC["overrides"][0], "reset": "x"}]}),
        (
            Place(2, "db"),
            {**SPEC, "overrides": [{"instance": 2, "machines": [{"name": "db", "running": False, "reset": "x"}]}]},
        ),
        (
            Place(2, "web"),
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
def test_the_field_is_set_and_nothing_else(place: Place, expected: dict[str, Any]) -> None:
    before = repr(SPEC)
    assert with_field(SPEC, place, "reset", "x") == expected
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
        refuse_owned(body(manager, operation, SYSTEM), Place(), "system", {"name": "b"})


def test_what_is_nobodys_or_as_wished_already_is_written() -> None:
    kept = body("argocd-controller", "Update", SYSTEM)
    refuse_owned(kept, Place(), "system", {"name": "a"})
    refuse_owned(kept, Place(), "reset", "x")
    refuse_owned(kept, Place(2), "system", {"name": "b"})
    refuse_owned(body("kubectl-edit", "Update", SYSTEM), Place(), "system", {"name": "b"})
    refuse_owned(body("kigi-cli", "Update", SYSTEM), Place(), "system", {"name": "b"})


def test_an_override_that_a_pipeline_keeps_is_refused_too() -> None:
    kept = body("flux", "Apply", OVERRIDE)
    with pytest.raises(FieldOwned, match=r"overrides\[instance 2\].reset"):
        refuse_owned(kept, Place(2), "reset", "x")
    refuse_owned(kept, Place(3), "reset", "x")
    assert owners(kept["metadata"], Place(2).path("reset")) == [("flux", "Apply")]
