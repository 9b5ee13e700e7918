"""One sentence for each error of a pydantic validation: what has which value, what was expected, and the remedy.

The text of a ValidationError itself has several lines, a type and a link, and names neither option nor variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

LONGEST_VALUE = 80
"""Characters of a value that a sentence shows."""


def problems(
    error: ValidationError, model: type[BaseModel] | None = None, names: Mapping[str, str] | None = None
) -> list[str]:
    """``--bucket 'X': does not have the right form; expected: Name of the bucket``, one for each error.

    ``model`` has the descriptions of the fields that it expects. ``names``: field -> the option or variable that it
    comes from; a field without one is named as in the file. A secret value is not shown.
    """
    return [_sentence(each, model, names or {}) for each in error.errors(include_url=False, include_context=False)]


def field_of(location: Sequence[int | str]) -> str:
    """``images[0].file``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _sentence(error: ErrorDetails, model: type[BaseModel] | None, names: Mapping[str, str]) -> str:
    location = error["loc"]
    field = field_of(location)
    name = names.get(field) or field or "the value"
    known = _known(model, location)
    if error["type"] == "missing":
        problem = f"{name}: required, but not set"
    else:
        value = "" if known is not None and not known.repr else f" {_short(error['input'])}"
        problem = f"{name}{value}: {_cause(error)}"
    expected = (known.description or "").rstrip(".") if known is not None else ""
    return f"{problem}; expected: {expected}" if expected else f"{problem}; correct it"


def _known(model: type[BaseModel] | None, location: Sequence[int | str]) -> FieldInfo | None:
    """The field of ``model`` that an error is about; None if it is a deeper one, or unknown."""
    if model is None or len(location) != 1:
        return None
    named = {field.alias or name: field for name, field in model.model_fields.items()}
    return named.get(str(location[0])) or model.model_fields.get(str(location[0]))


def _cause(error: ErrorDetails) -> str:
    if error["type"] == "string_pattern_mismatch":
        return "does not have the right form"
    text = error["msg"].removeprefix("Value error, ")
    return f"{text[:1].lower()}{text[1:]}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
