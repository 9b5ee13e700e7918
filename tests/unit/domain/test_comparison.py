"""A stored object is as wanted if it has all that a manifest has; what the API server adds does not matter."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.domain.comparison import includes


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        pytest.param({"a": 1, "added": 2}, {"a": 1}, True, id="added-field"),
        pytest.param({"a": [{"b": 1, "added": 0}]}, {"a": [{"b": 1}]}, True, id="added-field-in-a-list"),
        pytest.param({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}, True, id="added-field-deep"),
        pytest.param({}, {}, True, id="nothing-wanted"),
        pytest.param({"a": None}, {"a": None}, True, id="null"),
        pytest.param({}, {"a": None}, True, id="null-is-as-absent"),
        pytest.param({"a": [1, 2]}, {"a": [1]}, False, id="added-item"),
        pytest.param({"a": [2, 1]}, {"a": [1, 2]}, False, id="another-order"),
        pytest.param({"a": 1}, {"a": 2}, False, id="another-value"),
        pytest.param({"a": "1"}, {"a": 1}, False, id="another-type"),
        pytest.param({}, {"a": 1}, False, id="missing-field"),
        pytest.param(None, {}, False, id="no-object"),
        pytest.param("text", {"a": 1}, False, id="no-map"),
        pytest.param({"a": {}}, {"a": []}, False, id="no-list"),
    ],
)
def test_an_object_includes_what_is_wanted(found: Any, wanted: Any, expected: bool) -> None:
    assert includes(found, wanted) is expected
