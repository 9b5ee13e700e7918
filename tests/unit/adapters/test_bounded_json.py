"""Each object of an answer costs a bounded amount of memory, whatever its owner has written into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.adapters import bounded_json
from kigi.adapters.bounded_json import MAX_VALUES, SMALL, bounded, is_unread, loads


def item(title: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": title, "uid": title}, "spec": spec}


HUGE = item("huge", name="one", free=[{}] * (MAX_VALUES + 1))
LONG = item("long", text="x" * SMALL)


def page(*items: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "List", "metadata": {"continue": "a"}, "items": list(items)}


@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n", " :\t")])
def test_a_huge_item_of_a_page_loses_its_part_and_its_neighbours_stay(separators: tuple[str, str]) -> None:
    text = json.dumps(page(item("a", x=1), HUGE, LONG, item("b")), separators=separators)
    found = loads(text.encode())
    assert found["metadata"] == {"continue": "a"}
    assert [each["metadata"]["name"] for each in found["items"]] == ["a", "huge", "long", "b"]
    assert found["items"][0] == item("a", x=1)
    assert found["items"][2] == LONG
    assert is_unread(found["items"][1]["spec"])
    assert found["items"][1]["spec"]["name"] == "one", "what identifies it stays"
    assert "free" not in found["items"][1]["spec"]


def test_a_huge_object_of_an_event_or_an_answer_loses_its_part() -> None:
    event = loads(json.dumps({"type": "ADDED", "object": HUGE}))
    assert event["type"] == "ADDED"
    assert is_unread(event["object"]["spec"])
    assert is_unread(loads(json.dumps(HUGE))["spec"])


def test_a_deep_item_of_a_page_is_cut_and_its_neighbours_stay() -> None:
    deep = '{"metadata":{"name":"deep"},"spec":' + '{"a":' * 9900 + "1" + "}" * 9900 + "}"
    text = json.dumps(page(LONG, item("b"))).replace('"items": [', '"items": [' + deep + ",")
    found = loads(text)["items"]
    assert [each["metadata"]["name"] for each in found] == ["deep", "long", "b"]


def test_metadata_keep_what_is_kigis() -> None:
    many = {f"other/{n}": "" for n in range(MAX_VALUES)}
    meta = {
        "name": "x",
        "uid": "u",
        "labels": {**many, "kigi.dev/deployment": "d"},
        "finalizers": [*many, "kigi.dev/in-use"],
        "managedFields": [{}] * MAX_VALUES,
    }
    kept = bounded({"metadata": meta})["metadata"]
    assert (kept["name"], kept["uid"]) == ("x", "u")
    assert kept["labels"]["kigi.dev/deployment"] == "d"
    assert "kigi.dev/in-use" in kept["finalizers"]
    assert len(kept["labels"]) + len(kept["finalizers"]) < 3000
    assert "managedFields" not in kept


@pytest.mark.parametrize("text", ['{"a": 1', '{"a" 1}', "{1: 2}", '{"items": [1 2]}', '{"items": [', '{"a": 1} 2', "{"])
def test_a_damaged_text_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_json, "SMALL", 0)
    with pytest.raises(ValueError, match=r"xpect|more than|Unterminated"):
        loads(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["items", "object", "a"]), inner),
)


@given(values, st.sampled_from([(",", ":"), (", ", ": ")]))
def test_what_is_not_too_large_is_what_json_has(value: Any, separators: tuple[str, str]) -> None:
    text = json.dumps(value, separators=separators)
    before, bounded_json.SMALL = bounded_json.SMALL, 0
    try:
        assert loads(text) == value
    finally:
        bounded_json.SMALL = before
