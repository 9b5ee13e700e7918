from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.status_patch import status_operations

names = st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True, max_size=4)


def items(key: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return names.flatmap(
        lambda found: st.tuples(*(st.integers(0, 2) for _ in found)).map(
            lambda values: [{key: name, "value": value} for name, value in zip(found, values, strict=True)]
        )
    )


statuses = st.fixed_dictionaries(
    {"observedGeneration": st.integers(0, 3)},
    optional={
        "machines": items("name"),
        "conditions": items("type"),
        "nodeNames": st.lists(st.sampled_from(["n1", "n2"]), max_size=2),
        "history": st.lists(st.fixed_dictionaries({"action": st.sampled_from(["Reset", "Switched"])}), max_size=2),
        "summary": st.sampled_from(["1/2", "2/2"]),
    },
)


def applied(stored: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The object after the patch, as RFC 6902 defines it; None: a test has failed, or a path does not exist."""
    body = {"status": copy.deepcopy(stored)}
    for operation in operations:
        *parents, last = operation["path"].split("/")[1:]
        target: Any = body
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target.get(part)
            if target is None:
                return None
        key: Any = int(last) if isinstance(target, list) else last
        if isinstance(target, list) and key >= len(target):
            return None
        match operation["op"]:
            case "test":
                if target[key] != operation["value"]:
                    return None
            case "remove":
                del target[key]
            case _:
                target[key] = operation["value"]
    return body["status"]


@given(statuses, statuses)
def test_the_patch_turns_one_status_into_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert applied(old, status_operations(old, new)) == new


@given(statuses)
def test_an_equal_status_needs_no_operation(status: dict[str, Any]) -> None:
    assert status_operations(status, copy.deepcopy(status)) == []


def test_without_a_stored_status_the_whole_is_written() -> None:
    assert status_operations({}, {"a": 1}) == [{"op": "add", "path": "/status", "value": {"a": 1}}]


def test_only_the_changed_item_of_a_list_is_written() -> None:
    old = {"machines": [{"name": "db", "state": "Running"}, {"name": "web", "state": "Running"}]}
    new = {"machines": [{"name": "db", "state": "Running"}, {"name": "web", "state": "Failed"}]}
    assert status_operations(old, new) == [
        {"op": "test", "path": "/status/machines/1/name", "value": "web"},
        {"op": "replace", "path": "/status/machines/1", "value": {"name": "web", "state": "Failed"}},
    ]


def test_a_stored_list_in_another_order_refuses_the_patch() -> None:
    old = {"machines": [{"name": "db", "state": "Running"}, {"name": "web", "state": "Running"}]}
    new = {"machines": [{"name": "db", "state": "Running"}, {"name": "web", "state": "Failed"}]}
    assert applied({"machines": list(reversed(old["machines"]))}, status_operations(old, new)) is None
