"""Compares what a verb printed as JSON with the documented shape."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import is_typeddict

from kigi.cli import plan_shapes, shapes

for _kind in (*vars(shapes).values(), *vars(plan_shapes).values()):
    if is_typeddict(_kind):
        _kind.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
_ADAPTERS: dict[str, TypeAdapter[Any]] = {call: TypeAdapter(shape) for call, shape in shapes.SHAPES.items()}


def check_shape(arguments: tuple[str, ...], printed: Any) -> None:
    """Raises ValidationError for a field that is missing, unknown or of another type; verbs by their first words."""
    _ADAPTERS[call_of(arguments, printed)].validate_python(printed)


def call_of(arguments: tuple[str, ...], printed: Any) -> str:
    """The key of SHAPES for a call."""
    verb = arguments[0]
    if verb == "repository":
        return " ".join(arguments[:2])
    if verb == "why" and isinstance(printed, dict):
        return "why REASON"
    if verb in ("switch", "start", "stop", "reset", "capture"):
        if "--dry-run" in arguments:
            return f"{verb} --dry-run"
        return f"{verb} of several instances" if isinstance(printed, list) else verb
    return "export --list-have" if verb == "export" and isinstance(printed, list) else verb
