"""JSON that is nested deeper than Python's decoder can follow."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kopf._cogs.clients import api

from kigi.adapters import bounded_json
from kigi.adapters.shallow_json import CUT, MAX_LEVELS, cut, is_deep, loads
from kigi.handlers.decoding import install
from kigi.runtime.liveness import Liveness


def levels(value: Any) -> int:
    """Number of levels, without recursion."""
    count, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        count += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return count


@pytest.mark.parametrize("depth", [101, 900, 5000, 100_000])
@pytest.mark.parametrize(("begin", "end"), [('{"a":', "}"), ("[", "]"), ('[{"}":"]\\"{","b":', "}]")])
def test_a_deep_value_is_cut_and_its_neighbours_stay(depth: int, begin: str, end: str) -> None:
    text = '{"before": [1], "deep": ' + begin * depth + "1" + end * depth + ', "after": {"x": "[[["}}'
    for form in (text, text.encode()):
        found = loads(form)
        assert (found["before"], found["after"]) == ([1], {"x": "[[["})
        assert levels(found) == MAX_LEVELS


def test_a_text_that_is_no_json_is_refused_even_if_it_is_deep() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        loads("[" * 5000)
    with pytest.raises(ValueError, match="Expecting"):
        loads("{1}")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('"\\{}[]a', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\{}[]a', max_size=3), inner, max_size=3),
)


def shallow(value: Any, below: int) -> Any:
    if not isinstance(value, dict | list):
        return value
    if below == 0:
        return json.loads(CUT)
    if isinstance(value, dict):
        return {key: shallow(inner, below - 1) for key, inner in value.items()}
    return [shallow(inner, below - 1) for inner in value]


@given(values, st.integers(1, 4))
def test_only_what_is_too_deep_is_cut(value: Any, max_levels: int) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1, ensure_ascii=False)):
        assert json.loads(cut(text, max_levels)) == shallow(value, max_levels)
        assert is_deep(text, max_levels) == (levels(value) > max_levels)


async def test_kopf_decodes_with_it() -> None:
    before, default = api.json, aiohttp.ClientResponse.json.__kwdefaults__["loads"]
    try:
        install(Liveness())
        text = '{"a":' * (MAX_LEVELS + 9) + "1" + "}" * (MAX_LEVELS + 9)
        assert levels(api.json.loads(text)) == MAX_LEVELS
        assert aiohttp.ClientResponse.json.__kwdefaults__["loads"] is bounded_json.loads
    finally:
        api.json, aiohttp.ClientResponse.json.__kwdefaults__["loads"] = before, default
