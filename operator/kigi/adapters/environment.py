"""Settings from environment variables: the base class of every program's settings, and errors that name a variable.

    class Settings(EnvironmentSettings):
        workers: int = Field(
            default=8, ge=1, validation_alias="KIGI_WORKERS", description="Objects reconciled at the same time."
        )

    settings = load_settings(Settings)

``tools.configdoc`` makes ``docs/reference/configuration.md`` from the fields: each needs a description with its unit.
"""

from __future__ import annotations

import logging
from typing import Annotated, TypeVar

from pydantic import AfterValidator, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict


class EnvironmentSettings(BaseSettings):
    """Fields take their values from the variables in their ``validation_alias``; an empty variable counts as unset.

    Tests may construct a subclass with field names as keywords; they win over the environment.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=True,
        env_ignore_empty=True,
        # A value that is not plain text is parsed by the field's own validator, not as JSON.
        enable_decoding=False,
        populate_by_name=True,
    )


class SettingsInvalid(ValueError):
    """One or more variables are missing or wrong. The text has one line for each, with its remedy."""


SettingsT = TypeVar("SettingsT", bound=EnvironmentSettings)


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Settings of the process, from its environment. Raises SettingsInvalid."""
    try:
        return kind()
    except ValidationError as exc:
        errors = [error for error in exc.errors(include_url=False) if error["type"] != "default_factory_not_called"]
        raise SettingsInvalid("\n".join(_explain(kind, error) for error in errors)) from exc


def _explain(kind: type[EnvironmentSettings], error: ErrorDetails) -> str:
    """``KIGI_WORKERS='x': input should be a valid integer; expected: Objects at the same time (default: 8)``."""
    variable = str(error["loc"][0]) if error["loc"] else kind.__name__
    name, field = next(
        ((name, field) for name, field in kind.model_fields.items() if field.validation_alias == variable),
        (variable, None),
    )
    if error["type"] == "missing":
        problem = f"{variable}: required, but not set"
    else:
        cause = error["msg"].removeprefix("Value error, ")
        problem = f"{variable}={error['input']!r}: {cause[:1].lower()}{cause[1:]}"
    if field is None:
        return problem
    default = "" if field.is_required() else f" (default: {default_text(kind, name)})"
    return f"{problem}; expected: {(field.description or '').rstrip('.')}{default}"


def default_text(kind: type[EnvironmentSettings], name: str) -> str:
    """The default of a field as it would be written into the variable; empty if the field is required.

    A default that the program computes is described by ``json_schema_extra={"default": "half of KIGI_CONNECTIONS"}``.
    """
    field = kind.model_fields[name]
    if field.is_required():
        return ""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default" in extra:
        return str(extra["default"])
    value = field.get_default()
    if value is None or value == ():
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _level(text: str) -> str:
    level = text.upper()
    if level not in logging.getLevelNamesMapping():
        raise ValueError("not a log level")
    return level


LogLevel = Annotated[
    str, AfterValidator(_level), WithJsonSchema({"type": "string", "enum": ["DEBUG", "INFO", "WARNING", "ERROR"]})
]
"""Name of a level of the standard library, in upper case; read in any case."""
