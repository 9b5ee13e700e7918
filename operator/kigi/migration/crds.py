"""CustomResourceDefinitions of the migration: which versions they serve and store in each phase. Pure.

1. *Transition*: v1alpha2 is served and stored, without the rules that compare with the old object: an object of
   v1alpha1, read as v1alpha2, lacks the fields that were renamed, so each conversion changes immutable fields.
   v1alpha1 is neither served nor stored, but still listed: the API server refuses to drop a version that it stores.
2. *Final*: the definition of the release, after every object is rewritten.

The way back has the same two phases with the versions exchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from kigi.domain.names import VERSION
from kigi.migration.problems import Body

OLD = "v1alpha1"
OPEN_STATUS = "Any status, while objects go back."
"""Description of a status that the definition does not check: it is still one of v1alpha2."""


def needs_migration(live: Mapping[str, Any]) -> bool:
    """Whether objects may be stored in v1alpha1."""
    return OLD in (live.get("status") or {}).get("storedVersions", ())


def transition(live: Mapping[str, Any], release: Mapping[str, Any]) -> Body:
    """The live definition with the release's version in storage and the old one as a mere entry."""
    old = next(version for version in live["spec"]["versions"] if version["name"] == OLD)
    (new,) = copy.deepcopy(release["spec"]["versions"])
    _drop_transition_rules(new["schema"]["openAPIV3Schema"])
    versions = [new, {**old, "served": False, "storage": False}]
    return {**live, "spec": {**live["spec"], **release["spec"], "versions": versions}}


def back_transition(live: Mapping[str, Any], old: Mapping[str, Any]) -> Body:
    """The live definition with v1alpha1 in storage, as in the definition ``old``, and v1alpha2 as a mere entry."""
    stored = copy.deepcopy(next(version for version in old["spec"]["versions"] if version["name"] == OLD))
    schema = stored["schema"]["openAPIV3Schema"]
    _drop_transition_rules(schema)
    schema["properties"]["status"] = {
        "type": "object",
        "description": OPEN_STATUS,
        "x-kubernetes-preserve-unknown-fields": True,
    }
    new = next(version for version in live["spec"]["versions"] if version["name"] == VERSION)
    versions = [stored, {**new, "served": False, "storage": False}]
    return {**live, "spec": {**old["spec"], "versions": versions}}


def dropped_fields(value: Any, schema: Mapping[str, Any], path: str = "") -> list[str]:
    """Paths in a value that the API server would prune, as the schema does not have them."""
    if isinstance(value, list):
        items = schema.get("items") or {}
        return [
            found for number, item in enumerate(value) for found in dropped_fields(item, items, f"{path}[{number}]")
        ]
    if not isinstance(value, Mapping) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    properties, others = schema.get("properties") or {}, schema.get("additionalProperties")
    found: list[str] = []
    for key, item in value.items():
        below = properties.get(key) or (others if isinstance(others, Mapping) else None)
        where = f"{path}.{key}".removeprefix(".")
        found += [where] if below is None and not others else dropped_fields(item, below or {}, where)
    return found


def final(live: Mapping[str, Any], release: Mapping[str, Any]) -> Body:
    """The release's definition. The API server takes it once ``storedVersions`` lacks the old version."""
    return {**live, "spec": {**live["spec"], **release["spec"]}}


def stored_only(live: Mapping[str, Any], version: str) -> Body:
    """The definition whose status says that every object is stored in that version."""
    return {**live, "status": {**live["status"], "storedVersions": [version]}}


def _drop_transition_rules(schema: Any) -> None:
    if isinstance(schema, list):
        for item in schema:
            _drop_transition_rules(item)
    elif isinstance(schema, dict):
        rules = schema.get("x-kubernetes-validations")
        if isinstance(rules, list):
            kept = [rule for rule in rules if "oldSelf" not in rule["rule"]]
            if kept:
                schema["x-kubernetes-validations"] = kept
            else:
                del schema["x-kubernetes-validations"]
        for value in schema.values():
            _drop_transition_rules(value)
