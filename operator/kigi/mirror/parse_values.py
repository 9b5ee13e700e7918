"""Single values of API objects, any of which may be missing or damaged."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

from kigi.domain import names
from kigi.domain.quantities import parse_quantity

T = TypeVar("T", bound=Hashable)


def shared(value: T) -> T:
    """An equal value that other records have: every text of a body is an object of its own.

    For values that many objects have, such as names of instances and nodes, or digests: strings, or tuples of them.
    """
    return cast("T", _first_equal(value))


@functools.lru_cache(maxsize=16384)
def _first_equal(value: object) -> object:
    return value


@functools.lru_cache(maxsize=1024)
def _quantity(text: str) -> int:
    try:
        return parse_quantity(text)
    except ValueError:
        return 0


def time_of(value: object) -> datetime | None:
    """An RFC 3339 time with its offset; None for anything else."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def bytes_of(value: object, default: str) -> int:
    """Bytes of a quantity; of ``default`` if there is none, 0 if it is damaged."""
    return _quantity(str(value) if value else default)


def int_of(text: object) -> int:
    """The integer of a label; 0 if it is none."""
    try:
        return int(str(text))
    except ValueError:
        return 0


def nested(body: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping at the end of a path of keys; empty if the path ends before.

    ``nested(vm, "spec", "template")`` is ``vm["spec"]["template"]``, or ``{}``.
    """
    found: Any = body
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def labels_of(body: Mapping[str, Any]) -> Mapping[str, str]:
    """Labels of an object."""
    return nested(body, "metadata", "labels")


def annotations_of(body: Mapping[str, Any]) -> Mapping[str, str]:
    """Annotations of an object."""
    return nested(body, "metadata", "annotations")


def owner_of(annotations: Mapping[str, str]) -> str:
    """uid of the SystemInstance that created the object, or of the SystemDeployment before there were instances."""
    return shared(annotations.get(names.ANNOTATION_OWNER) or annotations.get(names.ANNOTATION_DEPLOYMENT_OWNER, ""))


def deployment_of(namespace: str | None, labels: Mapping[str, str]) -> tuple[str, str]:
    """(namespace, name) of the SystemDeployment that an object belongs to."""
    return shared((namespace or "", shared(labels.get(names.LABEL_DEPLOYMENT, ""))))
