"""Nodes that a prefetch selects; the table follows Kubernetes' label selectors."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.api.prefetch import SystemPrefetchSpec

LAB = {"pool": "lab", "gpu": ""}


def selected(labels: dict[str, str], **selection: Any) -> bool:
    target = {"kind": "SystemNode", "name": "a"}
    return SystemPrefetchSpec.model_validate({"targetRefs": [target], "nodes": selection}).selects("n1", labels)


def require(operator: str, *values: str, key: str = "pool") -> list[dict[str, Any]]:
    return [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]


def test_every_node_is_selected_without_a_selection() -> None:
    everywhere = {"targetRefs": [{"kind": "SystemNode", "name": "a"}]}
    assert SystemPrefetchSpec.model_validate(everywhere).selects("n1", {})
    assert selected({})


@pytest.mark.parametrize(("names", "expected"), [(["n1"], True), (["n0", "n1"], True), (["n"], False)])
def test_a_name_selects_exactly_its_node(names: list[str], expected: bool) -> None:
    assert selected({}, names=names) == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [({"pool": "lab"}, True), ({"gpu": ""}, True), ({"pool": "other"}, False), ({"zone": "a"}, False)],
)
def test_every_label_must_match(labels: dict[str, str], expected: bool) -> None:
    assert selected(LAB, matchLabels=labels) == expected


@pytest.mark.parametrize(
    ("operator", "values", "on_lab", "elsewhere", "unlabelled"),
    [
        ("In", ("lab", "hall"), True, False, False),
        ("NotIn", ("lab",), False, True, True),
        ("Exists", (), True, True, False),
        ("DoesNotExist", (), False, False, True),
    ],
)
def test_operators_mean_the_same_as_in_kubernetes(
    operator: str, values: tuple[str, ...], on_lab: bool, elsewhere: bool, unlabelled: bool
) -> None:
    found = [
        selected(labels, matchExpressions=require(operator, *values))
        for labels in ({"pool": "lab"}, {"pool": "office"}, {})
    ]
    assert found == [on_lab, elsewhere, unlabelled]


def test_an_empty_value_is_a_value() -> None:
    assert selected(LAB, matchExpressions=require("In", "", key="gpu"))
    assert not selected({}, matchExpressions=require("In", "", key="gpu"))
    assert not selected({}, matchLabels={"gpu": ""})


def test_all_requirements_must_hold() -> None:
    both = [*require("Exists", key="gpu"), *require("NotIn", "lab")]
    assert not selected(LAB, matchExpressions=both)
    assert selected({**LAB, "pool": "hall"}, matchExpressions=both)
    assert not selected({**LAB, "pool": "hall"}, matchLabels={"pool": "lab"}, matchExpressions=both)
