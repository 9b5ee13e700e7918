"""A selector of labels, with the fields and the meaning of metav1.LabelSelector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kigi.api.base import Model, Rule

LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$"

LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]


class LabelRequirement(Model):
    """One expression of a selector."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values)",
            "values: In and NotIn need values; Exists and DoesNotExist have none, so delete them",
            ".values",
        ),
    )

    key: str = Field(max_length=317, pattern=LABEL_KEY, description="Key of the label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label is compared; further values may be added: treat an unknown one as matching nothing."
    )
    values: list[LabelValue] | None = Field(
        default=None,
        max_length=32,
        description="Values that In and NotIn compare with; omitted for Exists and DoesNotExist.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy it. NotIn also matches without the label, as in Kubernetes."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in (self.values or ())
            case "NotIn":
                return value is None or value not in (self.values or ())
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None


class LabelSelector(Model):
    """Selects objects by their labels; all parts must match, and an empty selector matches every object."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.matchLabels) || self.matchLabels.all(key, size(key) <= 317 && key.matches('{LABEL_KEY}'))",
            "matchLabels: a key is not a valid label key; write it as on the object, such as example.org/tier",
            ".matchLabels",
        ),
    )

    match_labels: dict[str, LabelValue] | None = Field(
        default=None,
        description="Labels, each with the value that it must have; omitted: no condition.",
        json_schema_extra={"maxProperties": 32},
    )
    match_expressions: list[LabelRequirement] | None = Field(
        default=None,
        max_length=32,
        description="Further conditions on labels; omitted: none.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(labels.get(key) == value for key, value in (self.match_labels or {}).items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions or ()
        )
