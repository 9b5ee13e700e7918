"""Rules for descriptions, which are what ``kubectl explain`` prints."""

from __future__ import annotations

import re

from tools.crdwalk import Field

UNITS = {
    "Bytes": re.compile(r"bytes|size|space|length", re.IGNORECASE),
    "Milliseconds": re.compile(r"milliseconds", re.IGNORECASE),
    "Seconds": re.compile(r"seconds", re.IGNORECASE),
}
ABSENCE = re.compile(r"omitted|absent|default|unset|none|empty|free text|exactly one|reserved", re.IGNORECASE)
"""Words that say what a missing field means, or that there is nothing to say."""
PLACE = re.compile(r"namespace|cluster|node\.kigi\.dev|reserved", re.IGNORECASE)


def _described(field: Field) -> str | None:
    """The description; None where Kubernetes or KubeVirt defines the field, and for items of lists and maps."""
    if field.path.endswith(("[]", "{}")) or field.in_conditions or ".patch." in field.path:
        return None
    return str(field.schema.get("description", ""))


def no_sentence(field: Field) -> bool:
    """Whether the description is not a sentence, or a list of them."""
    text = _described(field)
    return text is not None and not re.match(r"^\S.{8,}[.)]$", text, re.DOTALL)


def no_unit(field: Field) -> bool:
    """Whether the description of a quantity does not name its unit."""
    text = _described(field)
    unit = next((pattern for suffix, pattern in UNITS.items() if field.name.endswith(suffix)), None)
    return text is not None and unit is not None and not unit.search(text)


def no_absence(field: Field) -> bool:
    """Whether the description of an optional value of a spec does not say what its absence means."""
    text = _described(field)
    if text is None or field.in_status or field.name in field.parent.get("required", ()):
        return False
    is_value = field.schema.get("type") in ("string", "integer") and "default" not in field.schema
    return is_value and not ABSENCE.search(text)


def no_place(field: Field) -> bool:
    """Whether neither the description of a reference nor that of its fields says where names are resolved."""
    text = _described(field)
    if text is None or not field.name.endswith(("Ref", "Refs")):
        return False
    target = field.schema.get("items", field.schema)
    texts = [text, *(str(inner.get("description", "")) for inner in target.get("properties", {}).values())]
    return not any(PLACE.search(one) for one in texts)
