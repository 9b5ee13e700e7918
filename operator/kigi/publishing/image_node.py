"""The VMImageNode that names a published layer."""

from __future__ import annotations

from typing import Any

from kigi.domain import kinds, names
from kigi.publishing.publish import Published


def image_object(
    name: str,
    published: Published,
    parent: str | None,
    *,
    os: str | None = None,
    description: str | None = None,
    repository: str | None = None,
) -> dict[str, Any]:
    """The manifest; ``parent``: name of the parent's VMImageNode, ``repository`` None: the default one."""
    layer = published.layer
    spec: dict[str, Any] = {
        "layer": {
            "digest": layer.digest,
            "sizeBytes": layer.size_bytes,
            "virtualSizeBytes": layer.virtual_size_bytes,
        }
    }
    if repository is not None:
        spec["layer"]["repository"] = repository
    if parent is not None:
        spec["parent"] = {"name": parent}
    if os is not None:
        spec["os"] = os
    if description is not None:
        spec["description"] = description
    return {"apiVersion": names.API_VERSION, "kind": kinds.IMAGE, "metadata": {"name": name}, "spec": spec}
