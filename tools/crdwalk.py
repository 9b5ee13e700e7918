"""The fields of a CustomResourceDefinition, one after the other, for checks of schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tools.crdgen import Schema


class Problem(NamedTuple):
    """A place that breaks a rule; ``path`` is ``Kind.field`` and ``message`` states the remedy."""

    rule: str
    path: str
    message: str

    @property
    def key(self) -> str:
        """Rule and place, as ``RULE KIND.FIELD``."""
        return f"{self.rule} {self.path}"


class Field(NamedTuple):
    """A field at any depth of ``spec`` or ``status``."""

    path: str
    """``Kind.spec.machines[].name``; the items of a list end in ``[]``, the values of a map in ``{}``."""
    name: str
    """Name of the field; items and values have the name of their list or map."""
    schema: Schema
    in_items: bool
    """Below a list."""
    parent: Schema
    """Schema of the object, list or map that has the field."""

    @property
    def in_status(self) -> bool:
        """Whether a controller writes the field."""
        return ".status" in self.path

    @property
    def in_conditions(self) -> bool:
        """Whether it is a part of the standard conditions."""
        return ".status.conditions" in self.path


def kind_of(crd: Schema) -> str:
    """Name of the kind."""
    return str(crd["spec"]["names"]["kind"])


def version_of(crd: Schema) -> Schema:
    """The only version of the CRD."""
    (version,) = crd["spec"]["versions"]
    return dict(version)


def schema_of(crd: Schema) -> Schema:
    """The OpenAPI schema of the object."""
    return dict(version_of(crd)["schema"]["openAPIV3Schema"])


def fields_of(crd: Schema) -> Iterator[Field]:
    """Every field of spec and status, parents before their children."""
    properties = schema_of(crd)["properties"]
    for part in ("spec", "status"):
        top = properties[part]
        yield Field(f"{kind_of(crd)}.{part}", part, top, False, properties)
        yield from _below(f"{kind_of(crd)}.{part}", part, top, False)


def _below(path: str, name: str, schema: Schema, in_items: bool) -> Iterator[Field]:
    children = [(f"{path}.{key}", key, child, in_items) for key, child in schema.get("properties", {}).items()]
    if "items" in schema:
        children.append((f"{path}[]", name, schema["items"], True))
    if isinstance(schema.get("additionalProperties"), dict):
        children.append((f"{path}{{}}", name, schema["additionalProperties"], in_items))
    for child_path, key, child, inside in children:
        yield Field(child_path, key, child, inside, schema)
        yield from _below(child_path, key, child, inside)
