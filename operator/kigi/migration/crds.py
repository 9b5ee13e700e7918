"""CustomResourceDefinitions of the migration: which versions they serve and store in each phase. Pure.

1. *Transition*: v1alpha2 is served and stored, without the rules that compare with the old object: an object of
   v1alpha1, read as v1alpha2, lacks the fields that were renamed, so each conversion changes immutable fields.
   v1alpha1 is neither served nor stored, but still listed: the API server refuses to drop a version that it stores.
2. *Final*: the definition of the release, after every object is rewritten.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from kigi.migration.problems import Body

OLD = "v1alpha1"


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
