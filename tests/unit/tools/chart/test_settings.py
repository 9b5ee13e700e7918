"""The chart's schema of settings agrees with the programs that read them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kigi_cache.settings import Bytes, Percent, PortionText
from tools.chart.settings import FIXED, PROGRAMS, offered, settings_schema

NUMBERS = st.from_regex(r"\+?[0-9]{0,3}\.?[0-9]{0,3}([A-Za-z%]{0,2}|[eE][+-]?[0-9]{0,2})", fullmatch=True)


def test_every_variable_is_a_value_or_defined_by_the_chart() -> None:
    """A new setting becomes a value by itself; one that the pod defines is in FIXED."""
    known = {str(field.validation_alias) for model in PROGRAMS.values() for field in model.model_fields.values()}
    assert FIXED.keys() <= known, "FIXED has variables that no program reads"
    assert "KIGI_WORKERS" in offered("operator")
    assert "KIGI_CONNECTIONS" in offered("daemon")
    assert not any("PATH" in name or "SOCKET" in name or "ADDR" in name for p in PROGRAMS for name in offered(p))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_schema_refuses_unknown_variables_and_null(program: str) -> None:
    schema = settings_schema(program)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(offered(program))
    for name, variable in schema["properties"].items():
        kinds = [each["type"] for each in variable.get("anyOf", [variable])]
        assert kinds, name
        assert set(kinds) <= {"integer", "number", "string", "boolean"}, name
        assert variable["description"], name


@pytest.mark.parametrize("kind", [Bytes, Percent, PortionText], ids=["bytes", "percent", "portion"])
@given(text=NUMBERS)
@example(text="12%")
@example(text="200Gi")
@example(text="0")
@example(text="100%")
@example(text="100.0")
@example(text="0.00")
@example(text="1e9")
def test_the_schema_admits_the_texts_that_the_program_reads(kind: Any, text: str) -> None:
    """What Helm admits starts. What it refuses are forms that only look odd, such as .5% or 070%."""
    adapter = TypeAdapter(kind)
    schema = adapter.json_schema()
    pattern = next(each["pattern"] for each in schema.get("anyOf", [schema]) if "pattern" in each)
    try:
        adapter.validate_python(text)
        reads = True
    except ValidationError:
        reads = False
    admits = re.search(pattern, text) is not None
    odd = re.match(r"^\+?(0[0-9]|[0-9]*\.|\.)", text) or (text.startswith("+")) or "e" in text.lower()
    assert admits <= reads
    assert admits == reads or odd
