"""What the emitter writes is what YAML and the template engine read."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tools.chart.emit import Scalar, Tree, When, render

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029\ufeff"), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | TEXT | st.sampled_from(["{{ x }}", "yes", "0400", "a: b", "- a"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=12
)


def as_rendered(text: str) -> str:
    """What the template engine makes of a template without expressions of values."""
    return text.replace('{{ "{{" }}', "{{")


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=4))
def test_literal_objects_stay_as_they_are(item: dict[str, object]) -> None:
    assert yaml.safe_load(as_rendered(render(item))) == item


def test_expressions_are_where_values_were() -> None:
    item = {
        "name": Scalar(".Values.name | quote"),
        "labels": When(".Values.labels", Tree(".Values.labels")),
        "list": [{"a": 1}, When("eq 1 1", {"b": [2]})],
    }
    assert render(item) == (
        "name: {{ .Values.name | quote }}\n"
        "{{- if .Values.labels }}\n"
        "labels: {{- toYaml .Values.labels | nindent 2 }}\n"
        "{{- end }}\n"
        "list:\n"
        "  - a: 1\n"
        "  {{- if eq 1 1 }}\n"
        "  - b:\n"
        "      - 2\n"
        "  {{- end }}\n"
    )


@pytest.mark.parametrize("text", ["{{ $labels.pod }}", "a {{", "{{{{"])
def test_literal_braces_are_no_expressions(text: str) -> None:
    (line,) = render({"a": text}).splitlines()
    assert as_rendered(line).count("{{") == text.count("{{")
    assert yaml.safe_load(as_rendered(line)) == {"a": text}
