"""Worst-case objects: every field of a schema filled to its limit, and their sizes in bytes of JSON.

An object that exceeds etcd's 1.5 MiB is refused. A spec is then refused with a message to its author; a status would be
lost whole. Texts count one byte per character: Kigi's own writers cut free texts by bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kigi.api import node_cache
from kigi.api.base import MAX_SPEC_BYTES
from kigi.api.conditions import MAX_MESSAGE_BYTES
from tools.crdgen import Schema
from tools.crdwalk import Problem, kind_of, schema_of

KIB = 2**10
LABEL_KEY_LENGTH = 317
WORD_LENGTH = 63
"""Longest type and reason of a condition that Kigi writes."""
QUANTITY_LENGTH = 20
PATCH_BYTES = 16 * KIB
"""Longest patch of a machine; the operator checks it when it reads the object."""
STATUS_BYTES = 800 * KIB
SPEC_BYTES = 1300 * KIB
CHECKED_BYTES = {
    "SystemNode.spec": MAX_SPEC_BYTES,
    "NodeCache.spec": node_cache.MAX_SPEC_BYTES,
    "NodeCache.status": node_cache.MAX_STATUS_BYTES,
}
"""What Kigi's reader or writer checks as a whole, because the limits of its lists together allow more."""
WHOLE_BYTES = {"SystemInstance": 128 * KIB, "NodeCache": 1228 * KIB}
"""Limits of spec and status together."""


class Unbounded(Exception):
    """A field without a limit; its text is the field's path."""


def filled(schema: Schema, path: str = "") -> Any:
    """A value of the schema with every field, each at its limit. Raises Unbounded."""
    if "enum" in schema:
        return max(schema["enum"], key=lambda value: len(str(value)))
    if schema.get("x-kubernetes-int-or-string"):
        return "9" * schema.get("maxLength", QUANTITY_LENGTH)
    kind = schema["type"]
    if kind == "boolean":
        return False
    if kind == "integer":
        return schema.get("maximum", 2**31 - 1 if schema.get("format") == "int32" else 2**53)
    if kind == "number":
        return 1 / 3
    if kind == "string":
        return _text(schema, path)
    if kind == "array":
        return [filled(schema["items"], f"{path}[]")] * _limit(schema, "maxItems", path)
    return _object(schema, path)


def _text(schema: Schema, path: str) -> str:
    if schema.get("format") == "date-time":
        return "2006-01-02T15:04:05.999999Z"
    return "x" * _limit(schema, "maxLength", path)


def _object(schema: Schema, path: str) -> Any:
    if path.endswith(".patch"):
        return {"x": "x" * (PATCH_BYTES - len('{"x":""}'))}
    if isinstance(schema.get("additionalProperties"), dict):
        value = filled(schema["additionalProperties"], f"{path}{{}}")
        return {f"{number:x<{LABEL_KEY_LENGTH}}": value for number in range(_limit(schema, "maxProperties", path))}
    return {name: filled(field, f"{path}.{name}") for name, field in schema.get("properties", {}).items()}


def _limit(schema: Schema, keyword: str, path: str) -> int:
    if keyword not in schema:
        raise Unbounded(path)
    return int(schema[keyword])


def filled_part(crd: Schema, part: str) -> Any:
    """``spec`` or ``status`` at its limits; conditions are as long as Kigi writes them. Raises Unbounded."""
    schema = schema_of(crd)["properties"][part]
    if "conditions" in schema["properties"]:
        conditions = _as_written(schema["properties"]["conditions"])
        schema = {**schema, "properties": {**schema["properties"], "conditions": conditions}}
    return filled(schema, f"{kind_of(crd)}.{part}")


def _as_written(conditions: Schema) -> Schema:
    """The list of conditions with the limits of Kigi's writer: metav1.Condition itself allows 32 KiB for a message."""
    items = conditions["items"]
    limits = {"type": WORD_LENGTH, "reason": WORD_LENGTH, "message": MAX_MESSAGE_BYTES}
    properties = {
        name: {**field, "maxLength": limits[name]} if name in limits else field
        for name, field in items["properties"].items()
    }
    return {**conditions, "items": {**items, "properties": properties}}


def size_bytes(value: Any) -> int:
    """Bytes of the value as JSON without spaces."""
    return len(json.dumps(value, separators=(",", ":")))


def sizes(crd: Schema) -> dict[str, int]:
    """Worst-case bytes of ``spec`` and ``status``. Raises Unbounded."""
    return {part: worst_bytes(crd, part) for part in ("spec", "status")}


def worst_bytes(crd: Schema, part: str) -> int:
    """Worst-case bytes of one part. Raises Unbounded."""
    size = size_bytes(filled_part(crd, part))
    return min(size, CHECKED_BYTES.get(f"{kind_of(crd)}.{part}", size))


def size_rule(crd: Schema) -> Iterator[Problem]:
    """Rule: the worst case of spec, status and of both together fits into its limit."""
    worst: dict[str, int] = {}
    for part, limit in (("spec", SPEC_BYTES), ("status", STATUS_BYTES)):
        place = f"{kind_of(crd)}.{part}"
        try:
            worst[part] = worst_bytes(crd, part)
        except Unbounded:
            continue  # the rules for limits name the field
        if worst[part] > limit:
            yield Problem("size", place, f"{worst[part] // KIB} KiB at its limits, at most {limit // KIB} KiB")
    whole = WHOLE_BYTES.get(kind_of(crd))
    if whole is not None and len(worst) == 2 and sum(worst.values()) > whole:
        yield Problem("size", kind_of(crd), f"{sum(worst.values()) // KIB} KiB, at most {whole // KIB} KiB in all")


def headroom(crd: Schema) -> str:
    """One line per part: worst case and limit."""
    lines = []
    for part, limit in (("spec", SPEC_BYTES), ("status", STATUS_BYTES)):
        try:
            size = f"{worst_bytes(crd, part) / KIB:8.1f}"
        except Unbounded as error:
            size = f"unbounded: {error}"
        lines.append(f"{kind_of(crd) + '.' + part:28} {size} of {limit // KIB} KiB")
    return "\n".join(lines)
