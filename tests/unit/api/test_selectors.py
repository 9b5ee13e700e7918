"""Label selectors match as Kubernetes defines it (metav1.LabelSelector)."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kigi.api.selectors import LabelSelector

LABELS = {"tenant": "lab", "tier": "gold"}


def selector(**fields: Any) -> LabelSelector:
    return LabelSelector.model_validate(fields)


def expression(operator: str, *values: str, key: str = "tenant") -> LabelSelector:
    item: dict[str, Any] = {"key": key, "operator": operator} | ({"values": list(values)} if values else {})
    return selector(matchExpressions=[item])


def test_an_empty_selector_matches_everything() -> None:
    assert LabelSelector().matches({})
    assert LabelSelector().matches(LABELS)


@pytest.mark.parametrize(
    ("chosen", "matches"),
    [
        pytest.param(selector(matchLabels={"tenant": "lab"}), True, id="label"),
        pytest.param(selector(matchLabels={"tenant": "lab", "tier": "base"}), False, id="all-labels-must-match"),
        pytest.param(selector(matchLabels={"absent": ""}), False, id="an-absent-label-has-no-empty-value"),
        pytest.param(expression("In", "lab", "x"), True, id="in"),
        pytest.param(expression("In", "x"), False, id="in-others"),
        pytest.param(expression("In", "lab", key="absent"), False, id="in-absent"),
        pytest.param(expression("NotIn", "x"), True, id="not-in"),
        pytest.param(expression("NotIn", "lab"), False, id="not-in-this"),
        pytest.param(expression("NotIn", "lab", key="absent"), True, id="not-in-absent"),
        pytest.param(expression("Exists"), True, id="exists"),
        pytest.param(expression("Exists", key="absent"), False, id="exists-absent"),
        pytest.param(expression("DoesNotExist"), False, id="does-not-exist"),
        pytest.param(expression("DoesNotExist", key="absent"), True, id="does-not-exist-absent"),
        pytest.param(
            selector(matchLabels={"tenant": "lab"}, matchExpressions=[{"key": "tier", "operator": "DoesNotExist"}]),
            False,
            id="labels-and-expressions",
        ),
    ],
)
def test_a_selector_matches(chosen: LabelSelector, matches: bool) -> None:
    assert chosen.matches(LABELS) is matches


def test_an_operator_that_is_unknown_here_is_no_selector() -> None:
    """It must not match more than its author meant."""
    with pytest.raises(ValidationError):
        expression("Gt", "1")
