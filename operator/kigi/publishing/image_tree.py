"""Publishes the images of a folder as its ``manifest.json`` describes them.

{"images":  [{"name", "parent": name or null, "file": relative path}, ...]      parents first
 "systems": [{"name", "parent": name or null, "description"?, "machines": {machine: image}}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from kigi.adapters.s3 import LayerBucket, Progress
from kigi.api.base import Model
from kigi.api.problems import problems
from kigi.errors import SpecInvalid
from kigi.publishing.image_node import image_object
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.publish import Published, publish_image

MANIFEST = "manifest.json"


class TreeImage(Model):
    """One image of the folder; ``file`` is relative to it."""

    name: str
    parent: str | None = None
    file: str
    os: str | None = None
    description: str | None = None


class TreeManifest(Model):
    """The folder's manifest; fields besides ``images``, such as ``systems``, are for other programs."""

    images: list[TreeImage] = Field(min_length=1)


def load_manifest(folder: Path) -> TreeManifest:
    """The manifest in ``folder``; raises SpecInvalid with the field at fault."""
    try:
        return TreeManifest.model_validate(json.loads((folder / MANIFEST).read_text()))
    except ValidationError as exc:
        raise SpecInvalid(f"{folder / MANIFEST}: {'; '.join(problems(exc, TreeManifest))}") from exc
    except OSError as exc:
        raise SpecInvalid(f"{folder / MANIFEST} cannot be read: {exc.strerror}; name the folder of the images") from exc
    except ValueError as exc:
        raise SpecInvalid(f"{folder / MANIFEST} is not JSON: {exc}; correct it") from exc


async def publish_tree(
    folder: Path,
    layers: LayerFolder,
    repository: LayerBucket,
    report: Callable[[TreeImage, Published], None] = lambda image, published: None,
    progress: Progress = lambda count: None,
    *,
    repository_name: str | None = None,
) -> list[dict[str, Any]]:
    """Publishes every image, parents first; their VMImageNodes in that order, each with that ``repository_name``.

    ``report`` is called after each image. After an interruption, call it again: stored layers are not sent twice.
    """
    published: dict[str, Published] = {}
    objects: list[dict[str, Any]] = []
    for image in load_manifest(folder).images:
        if image.parent is not None and image.parent not in published:
            raise SpecInvalid(f"{MANIFEST}: image {image.name}: its parent {image.parent!r} does not come before it")
        parent = published[image.parent].layer.digest if image.parent is not None else None
        if not (folder / image.file).resolve().is_relative_to(folder.resolve()):
            raise SpecInvalid(f"{MANIFEST}: image {image.name}: its file {image.file!r} lies outside the folder")
        done = await publish_image(folder / image.file, layers, repository, parent=parent, progress=progress)
        published[image.name] = done
        objects.append(
            image_object(
                image.name,
                done,
                image.parent,
                guest={"os": image.os} if image.os else None,
                description=image.description,
                repository=repository_name,
            )
        )
        report(image, done)
    return objects
