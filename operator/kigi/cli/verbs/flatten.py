"""``kigi flatten``: gather the image's path, make and prove the layer, name it by a VMImageNode."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from kigi.adapters.kubernetes.resources import IMAGE
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import open_repository
from kigi.cli.cluster import Access, open_cluster, read_mirror
from kigi.cli.output import Format, say
from kigi.cli.progress import Bars, bars
from kigi.cli.verbs.publish import default_layers, emit
from kigi.domain.images import Image, image_path
from kigi.domain.layers import DEFAULT_REPOSITORY
from kigi.domain.names import ANNOTATION_EQUALS
from kigi.domain.quantities import format_bytes
from kigi.errors import NameTaken, SpecInvalid
from kigi.publishing.flatten import flatten_image, layers_above
from kigi.publishing.image_node import image_object
from kigi.publishing.layer_folder import LayerFolder


def run_flatten(
    image: str,
    name: str,
    *,
    access: Access,
    parent: str | None,
    apply: bool,
    layers_dir: Path | None,
    settings: Path | None,
    form: Format = Format.TABLE,
) -> None:
    """Raises KigiError; the old chain stays as it is."""
    with bars() as drawn:
        made = asyncio.run(_flatten(access, image, name, parent, layers_dir, settings, drawn))
    emit([made], access, apply, form)


async def _flatten(
    access: Access,
    image: str,
    name: str,
    parent: str | None,
    layers_dir: Path | None,
    settings: Path | None,
    drawn: Bars,
) -> dict[str, Any]:
    repositories = load_repositories(settings)
    namespace = access.default_namespace()
    with open_cluster(access) as kube:
        mirror = read_mirror(kube, (IMAGE,), namespace)
        images = {record.meta.name: record.image for record in mirror.images if isinstance(record.image, Image)}
        path = image_path(images, image)
        body = kube.get(IMAGE, namespace, image)
    layers_above(path, parent)
    if mirror.images.get(namespace, name) is not None:
        raise NameTaken(f"--name: VMImageNode {namespace}/{name} exists; its layer cannot change, so name another")
    if len({each.repository for each in path}) > 1:
        raise SpecInvalid(f"VMImageNode {image}: its layers are in several repositories; flatten needs them in one")
    repository, before = path[-1].repository, sum(each.size_bytes for each in path)
    async with open_repository(repositories.get(repository)) as store:
        gathered, stored = drawn.add(f"{len(path)} layers", before), drawn.add("stored")
        folder = LayerFolder(layers_dir or default_layers(), gathered)
        done = await flatten_image(path, parent, folder, store, stored)
    say(
        f"{image}: {len(path)} layers, {format_bytes(before)}; {name}: one layer of "
        f"{format_bytes(done.layer.size_bytes)} {f'on {parent}' if parent else 'as a root'}, proved equal"
    )
    spec = (body or {}).get("spec", {})
    made = image_object(
        name,
        done,
        parent,
        os=spec.get("os"),
        description=spec.get("description"),
        repository=None if repository == DEFAULT_REPOSITORY else repository,
    )
    made["metadata"]["annotations"] = {ANNOTATION_EQUALS: f"{image}@{path[-1].digest}"}
    return made
