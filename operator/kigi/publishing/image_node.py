"""The VMImageNode that names a published layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.domain import kinds, names
from kigi.domain.tree_names import ref_to
from kigi.publishing.publish import Published


def image_object(
    name: str,
    published: Published,
    parent: str | None,
    *,
    guest: Mapping[str, str] | None = None,
    description: str | None = None,
    repository: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest; ``parent``: name of the parent's VMImageNode, ``repository`` None: the default of its namespace."""
    layer = published.layer
    spec: dict[str, Any] = {
        "layer": {
            "digest": layer.digest,
            "sizeBytes": layer.size_bytes,
            "virtualSizeBytes": layer.virtual_size_bytes,
        }
    }
    if repository is not None:
        spec["repositoryRef"] = {"name": repository}
    if parent is not None:
        spec["parentRef"] = ref_to(parent)
    if guest:
        spec["guest"] = dict(guest)
    if description is not None:
        spec["description"] = description
    if provenance is not None:
        spec["provenance"] = provenance
    return {"apiVersion": names.API_VERSION, "kind": kinds.IMAGE, "metadata": {"name": name}, "spec": spec}
