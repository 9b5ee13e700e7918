"""Names of images and states as one namespace, their *home*, writes them.

``office`` is of the home namespace, and ``exercises/office`` of another one. Names of objects have no slash, so the two
forms cannot be confused. Decisions, volumes and messages use these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SEPARATOR = "/"


class TreeNode(NamedTuple):
    """An image or a state of the cluster."""

    kind: str
    namespace: str
    name: str


def name_in(home: str, namespace: str | None, name: str) -> str:
    """The name of ``namespace``'s object in the namespace ``home``; None: of ``home`` itself."""
    return name if namespace is None or namespace == home else f"{namespace}{SEPARATOR}{name}"


def is_foreign(name: str) -> bool:
    """Whether the name is of another namespace than its home."""
    return SEPARATOR in name


def place_of(home: str, name: str) -> tuple[str, str]:
    """(namespace, name) of the object that ``home`` calls ``name``."""
    namespace, separator, rest = name.partition(SEPARATOR)
    return (namespace, rest) if separator else (home, name)


def renamed(name: str, home: str, viewer: str) -> str:
    """The name in ``viewer`` of the object that ``home`` calls ``name``."""
    return name_in(viewer, *place_of(home, name))


def referred(home: str, ref: Mapping[str, Any]) -> str:
    """The name in ``home`` of the object that a reference of the API names."""
    return name_in(home, ref.get("namespace"), ref["name"])


def ref_to(name: str) -> dict[str, str]:
    """The reference of the API by which the home namespace names the object."""
    namespace, own = place_of("", name)
    return {"namespace": namespace, "name": own} if namespace else {"name": own}


def node_of(kind: str, home: str, name: str) -> TreeNode:
    """The node of the cluster that ``home`` calls ``name``."""
    return TreeNode(kind, *place_of(home, name))
