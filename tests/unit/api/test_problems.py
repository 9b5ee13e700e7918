"""Errors of pydantic as sentences: the value's source, the value, what was expected, and no secrets."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kigi.api.problems import LONGEST_VALUE, problems


class Part(BaseModel):
    size: int


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern="^[a-z]+$", description="Name in lower-case letters, such as kigi.")
    count: int = Field(default=1, ge=1, description="Number of layers.")
    secret: str = Field(default="xxx", min_length=3, repr=False, description="Secret key.")
    parts: list[Part] = []


def found(**values: object) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(values)
    return problems(caught.value, Model, {"name": "--name"})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"name": "A"},
            "--name 'A': does not have the right form; expected: Name in lower-case letters, such as kigi",
        ),
        ({}, "--name: required, but not set; expected: Name in lower-case letters, such as kigi"),
        (
            {"name": "a", "count": 0},
            "count 0: input should be greater than or equal to 1; expected: Number of layers",
        ),
        (
            {"name": "a", "parts": [{"size": 1}, {"size": "x"}]},
            "parts[1].size 'x': input should be a valid integer, unable to parse string as an integer; correct it",
        ),
        ({"name": "a", "nmae": 1}, "nmae 1: extra inputs are not permitted; correct it"),
    ],
)
def test_an_error_is_one_sentence(values: dict[str, object], text: str) -> None:
    assert found(**values) == [text]


def test_a_secret_is_not_shown() -> None:
    (text,) = found(name="a", secret="pw")
    assert text.startswith("secret: ")
    assert "pw" not in text


def test_a_long_value_is_shortened() -> None:
    (text,) = found(name="A" * 500)
    assert len(text) < LONGEST_VALUE + 200


def test_every_error_has_its_sentence() -> None:
    assert len(found(name="A", count=0)) == 2
