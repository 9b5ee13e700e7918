"""Worst-case sizes: every field counts at its limit, and a field without a limit is named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.api.conditions import MAX_MESSAGE_BYTES, Finding, merge_conditions
from tests.support.crd_objects import SPECS
from tests.unit.api.test_lint import TEXT, crd, listed
from tools.crdgen import KINDS, Schema, build_crd
from tools.crdsize import Unbounded, filled, headroom, size_bytes, size_rule, sizes
from tools.crdwalk import schema_of

BOUNDED: list[tuple[Schema, Any]] = [
    ({"type": "string", "maxLength": 3}, "xxx"),
    ({"type": "string", "enum": ["A", "Longest", "B"]}, "Longest"),
    ({"type": "string", "format": "date-time"}, "2006-01-02T15:04:05.999999Z"),
    ({"type": "boolean"}, False),
    ({"type": "integer", "format": "int32"}, 2**31 - 1),
    ({"type": "integer", "format": "int64"}, 2**53),
    ({"type": "integer", "maximum": 9}, 9),
    ({"x-kubernetes-int-or-string": True, "maxLength": 2}, "99"),
    (listed({"type": "string", "maxLength": 1}, maxItems=3), ["x", "x", "x"]),
    ({"type": "object", "properties": {"a": {"type": "boolean"}}}, {"a": False}),
]


@pytest.mark.parametrize(("schema", "value"), BOUNDED)
def test_a_field_is_filled_to_its_limit(schema: Schema, value: Any) -> None:
    assert filled(schema) == value


def test_a_map_is_filled_with_different_keys_of_the_greatest_length() -> None:
    value = filled({"type": "object", "maxProperties": 32, "additionalProperties": {"type": "boolean"}})
    assert len(value) == 32
    assert {len(key) for key in value} == {317}


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"a": {"type": "string"}}, "Kind.spec.a"),
        ({"a": {"type": "array", "items": TEXT}}, "Kind.spec.a"),
        ({"a": listed({"type": "object", "properties": {"b": {"type": "string"}}})}, "Kind.spec.a[].b"),
        ({"a": {"type": "object", "additionalProperties": TEXT}}, "Kind.spec.a"),
    ],
)
def test_a_field_without_a_limit_is_named(schema: Schema, path: str) -> None:
    with pytest.raises(Unbounded, match=f"^{path.replace('[', '.').replace(']', '.')}$"):
        sizes(crd(schema))
    assert list(size_rule(crd(schema))) == []
    assert f"unbounded: {path}" in headroom(crd(schema))


def test_too_large_a_status_is_found_and_its_size_reported() -> None:
    large = crd(status={"a": listed({"type": "string", "maxLength": 1000}, maxItems=1000)})
    (problem,) = size_rule(large)
    assert problem == ("size", "Kind.status", "979 KiB at its limits, at most 800 KiB")
    assert "Kind.status" in headroom(large)


def test_some_kinds_are_limited_as_a_whole() -> None:
    half = {"a": {"type": "string", "maxLength": 70 * 2**10}}
    both = crd(half, half)
    assert list(size_rule(both)) == []
    both["spec"]["names"]["kind"] = "SystemInstance"
    assert [problem.key for problem in size_rule(both)] == ["size SystemInstance"]


@pytest.mark.parametrize("text", ["x" * 5000, "ü" * 5000, "x" + "€" * 5000, "🦆" * 5000])
def test_conditions_are_as_long_as_the_writer_makes_them(text: str) -> None:
    """The size of a condition counts with the writer's limit, which is below that of metav1.Condition."""
    (made,) = merge_conditions(
        [], [Finding("Ready", True, "R", text)], generation=1, now=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert MAX_MESSAGE_BYTES - 4 <= len(made.message.encode()) <= MAX_MESSAGE_BYTES
    assert made.message.endswith("…")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_good_object_is_larger_than_the_worst_case(kind: type) -> None:
    built = build_crd(kind)
    try:
        worst = sizes(built)
    except Unbounded:
        pytest.skip("not bounded yet")
    assert size_bytes(SPECS[kind.__name__]) < worst["spec"]
    assert set(SPECS[kind.__name__]) <= set(schema_of(built)["properties"]["spec"]["properties"])
