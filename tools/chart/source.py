"""Objects of ``manifests/`` as kustomize lists them, file by file, without kustomize."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same language; the loader in C reads the definitions of the kinds twenty times as fast."""
_KUSTOMIZATIONS = ("kustomization.yaml", "Kustomization")
_UNDERSTOOD = frozenset({"apiVersion", "kind", "resources"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file with its objects in their order; ``name`` is unique, such as ``rbac-operator`` or ``crd-treegrants``."""

    name: str
    objects: tuple[Object, ...]


def load(directory: Path) -> tuple[SourceFile, ...]:
    """Files below a kustomization, in its order.

    Raises ValueError for a kustomization with anything but resources: the chart would silently lack it.
    """
    root = directory.resolve()
    return tuple(SourceFile(_name(root, path), read(path)) for path in _files(root))


def read(path: Path) -> tuple[Object, ...]:
    """Objects of one file. Raises ValueError, naming the file, if a document is no Kubernetes object."""
    objects = tuple(
        each for each in yaml.load_all(path.read_text(encoding="utf-8"), Loader=_LOADER) if each is not None
    )
    for each in objects:
        if not isinstance(each, dict) or not {"apiVersion", "kind", "metadata"} <= each.keys():
            raise ValueError(f"{path}: a document has no apiVersion, kind and metadata")
    return objects


def label(item: Object) -> str:
    """``Kind name`` or ``Kind namespace/name``, for messages and comparisons."""
    meta = item["metadata"]
    return f"{item['kind']} " + "/".join(filter(None, (meta.get("namespace"), meta["name"])))


def _files(directory: Path) -> Iterator[Path]:
    found = next((directory / name for name in _KUSTOMIZATIONS if (directory / name).exists()), None)
    if found is None:
        raise ValueError(f"{directory}: has no {_KUSTOMIZATIONS[0]}")
    text = yaml.safe_load(found.read_text(encoding="utf-8"))
    if other := sorted(text.keys() - _UNDERSTOOD):
        raise ValueError(f"{found}: the chart cannot carry over {', '.join(other)}; use resources only")
    for entry in text["resources"]:
        path = (directory / entry).resolve()
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _name(root: Path, path: Path) -> str:
    if path.is_relative_to(root):
        return "-".join(path.relative_to(root).with_suffix("").parts)
    return f"crd-{path.name.split('.')[0]}"
