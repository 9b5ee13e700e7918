"""What a conversion reports: problems stop the migration before it changes anything, notes do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
"""An object as the API server returns it."""


@dataclass(slots=True)
class Findings:
    """Texts for a person, each with object, field and remedy."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def problem(self, body: Mapping[str, Any], text: str) -> None:
        """An object that v1alpha2 cannot express, or that must come to rest first."""
        self.problems.append(f"{title(body)}: {text}")

    def note(self, body: Mapping[str, Any], text: str) -> None:
        """Something that the converted object does not have, without an effect on disks or VMs."""
        self.notes.append(f"{title(body)}: {text}")


def title(body: Mapping[str, Any]) -> str:
    """``SystemNode class-a/office`` of an object."""
    meta = body["metadata"]
    namespace = meta.get("namespace")
    return f"{body['kind']} {namespace + '/' if namespace else ''}{meta['name']}"


def without_none(**fields: Any) -> Body:
    """The fields that are not None."""
    return {key: value for key, value in fields.items() if value is not None}
