"""One field of a deployment or an instance: its place, its value, and the field managers that own it.

A field that another manager keeps (a GitOps pipeline, a file that is applied server-side) would be set back by its
owner, so an edit is refused with the owner's name. SystemInstances rarely have an owner.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kigi.cli.cluster import EDIT_MANAGER
from kigi.domain import kinds
from kigi.domain.names import instance_object
from kigi.errors import SpecInvalid

_PIPELINES = re.compile(
    r"argo|flux|kustomize-controller|helm|fleet|terraform|pulumi|rancher|config-sync", re.IGNORECASE
)
"""Field managers that set their fields back by updates, not by server-side apply."""


class FieldOwned(SpecInvalid):
    """Another field manager keeps the field, and would set it back."""

    reason = "FieldOwned"


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a deployment that a field belongs to: all of it, one instance, or one machine of an instance."""

    instance: str | None = None
    machine: str | None = None

    @property
    def kind(self) -> str:
        """Kind of the object that has the field."""
        return kinds.DEPLOYMENT if self.instance is None else kinds.INSTANCE

    def object_name(self, deployment: str) -> str:
        """Name of the object that has the field."""
        return deployment if self.instance is None else instance_object(deployment, self.instance)

    def managed_path(self, field: str) -> tuple[str, ...]:
        """Path of the part's field in ``managedFields``, below ``f:spec``."""
        if self.machine is None:
            return (f"f:{field}",)
        return ("f:machines", f'k:{{"name":"{self.machine}"}}', f"f:{field}")

    def text(self, field: str) -> str:
        """The field for a person, such as ``spec.machines[mail1].systemRef``."""
        machine = f"machines[{self.machine}]." if self.machine is not None else ""
        return f"spec.{machine}{field}"


def with_field(spec: Mapping[str, Any], part: Part, field: str, value: Any) -> dict[str, Any]:
    """A copy of the spec with the field set; the machine that it needs is added."""
    new = copy.deepcopy(dict(spec))
    target: dict[str, Any] = new
    if part.machine is not None:
        target = _item(target.setdefault("machines", []), "name", part.machine)
    target[field] = value
    return new


def _item(items: list[dict[str, Any]], key: str, value: Any) -> dict[str, Any]:
    """The item with that key, added if there is none."""
    for item in items:
        if item[key] == value:
            return item
    items.append({key: value})
    return items[-1]


def owners(metadata: Mapping[str, Any], path: Sequence[str]) -> list[tuple[str, str]]:
    """(manager, operation) of each other field manager that owns the field at ``path`` below ``f:spec``, sorted."""
    return sorted(
        (str(entry.get("manager")), str(entry.get("operation")))
        for entry in metadata.get("managedFields") or ()
        if not entry.get("subresource")
        and entry.get("manager") != EDIT_MANAGER
        and _has(entry.get("fieldsV1") or {}, ("f:spec", *path))
    )


def _has(tree: Mapping[str, Any], path: Sequence[str]) -> bool:
    for step in path:
        if step not in tree:
            return False
        tree = tree[step]
    return True


def refuse_owned(body: Mapping[str, Any], part: Part, field: str, value: Any) -> None:
    """Raises FieldOwned if an owner of the field would set it back; a field that has the value already is accepted."""
    if _value_at(body["spec"], part, field) == value:
        return
    keepers = [
        manager
        for manager, operation in owners(body["metadata"], part.managed_path(field))
        if operation == "Apply" or _PIPELINES.search(manager)
    ]
    if keepers:
        others = "" if part.instance is not None else ", or name an --instance, which has an object of its own"
        raise FieldOwned(
            f"{part.text(field)} of {part.kind} {body['metadata']['name']} is kept by {', '.join(keepers)}, "
            f"which would set it back: change it there{others}, or take it over with --force"
        )


def _value_at(spec: Mapping[str, Any], part: Part, field: str) -> Any:
    found: Mapping[str, Any] = spec
    if part.machine is not None:
        found = next((item for item in found.get("machines") or () if item["name"] == part.machine), {})
    return found.get(field)
