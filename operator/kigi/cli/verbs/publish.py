"""``kigi publish`` and ``kigi publish-tree``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kigi.adapters.kubernetes.resources import IMAGE
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import open_repository
from kigi.api.repositories import Repository
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.output import Format, say, show
from kigi.cli.progress import Bars, bars
from kigi.domain.layers import DEFAULT_REPOSITORY, Digest, parse_digest
from kigi.domain.quantities import format_bytes
from kigi.errors import ImageMissing, SpecInvalid
from kigi.publishing.image_node import image_object
from kigi.publishing.image_tree import TreeImage, load_manifest
from kigi.publishing.image_tree import publish_tree as publish_folder
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.levels import level_names, publish_levels
from kigi.publishing.publish import Published, publish_image

MANAGER = "kigi"
"""Field manager of what is published or imported."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where layers go: a repository of the settings, with its server or bucket replaced by a flag."""

    settings: Path | None
    name: str
    endpoint: str | None = None
    bucket: str | None = None

    def repository(self) -> Repository:
        """The repository; raises SpecInvalid or RepositoryUnknown."""
        environment = dict(os.environ)
        if self.endpoint is not None and self.name == DEFAULT_REPOSITORY:
            environment["KIGI_S3_ENDPOINT"] = self.endpoint
        found = load_repositories(self.settings, environment).get(self.name)
        flags = {"endpoint": self.endpoint, "bucket": self.bucket}
        changes = {field: value for field, value in flags.items() if value is not None}
        try:
            return Repository.model_validate({**found.model_dump(by_alias=True), **changes})
        except ValidationError as exc:
            raise SpecInvalid(f"--endpoint, --bucket: {exc}") from exc


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """The flags of ``kigi publish``."""

    file: Path
    name: str
    parent: str | None
    parent_digest: str | None
    image_format: str | None
    description: str | None
    os: str | None
    access: Access
    apply: bool
    levels: bool
    backing_dirs: tuple[Path, ...]
    layers_dir: Path | None
    store: StoreOptions
    form: Format = Format.TABLE


def run_publish(options: PublishOptions) -> None:
    """Publish one image, or one per level; raises KigiError."""
    published = asyncio.run(_publish(options))
    made: list[dict[str, Any]] = []
    parent = options.parent
    for name, each in zip(level_names(options.name, len(published)), published, strict=True):
        what = "stored" if each.sent else "was there already"
        say(f"{each.layer.digest} {what}, {format_bytes(each.layer.size_bytes)}")
        repository = None if options.store.name == DEFAULT_REPOSITORY else options.store.name
        made.append(
            image_object(name, each, parent, os=options.os, description=options.description, repository=repository)
        )
        parent = name
    emit(made, options.access, options.apply, options.form)


def run_publish_tree(
    folder: Path, *, access: Access, apply: bool, layers_dir: Path | None, store: StoreOptions, form: Format
) -> None:
    """Publish a folder; raises KigiError."""

    async def work(drawn: Bars) -> list[dict[str, Any]]:
        images = load_manifest(folder).images
        advance, send = drawn.add("images", len(images), things=True), drawn.add("stored")

        def report(image: TreeImage, published: Published) -> None:
            advance(1)
            what = "stored" if published.sent else "was there"
            say(f"{image.name:24} {format_bytes(published.layer.size_bytes):>10}  {what}")

        async with open_repository(store.repository()) as opened:
            return await publish_folder(folder, LayerFolder(layers_dir or default_layers()), opened, report, send)

    with bars() as drawn:
        made = asyncio.run(work(drawn))
    emit(made, access, apply, form)


async def _publish(options: PublishOptions) -> list[Published]:
    settings = options.store.repository()
    parent = _parent_digest(options)
    folder = LayerFolder(options.layers_dir or default_layers())
    async with open_repository(settings) as store:
        with bars() as drawn:
            advance = drawn.add("stored")
            if options.levels:
                return await publish_levels(
                    options.file, folder, store, parent=parent, backing_dirs=options.backing_dirs, progress=advance
                )
            done = await publish_image(
                options.file,
                folder,
                store,
                parent=parent,
                image_format=options.image_format,
                backing_dirs=options.backing_dirs,
                progress=advance,
            )
            return [done]


def _parent_digest(options: PublishOptions) -> Digest | None:
    if options.parent_digest is not None:
        try:
            return parse_digest(options.parent_digest)
        except ValueError as exc:
            raise SpecInvalid(f"--parent-digest: {exc}") from exc
    if options.parent is None:
        return None
    namespace = options.access.default_namespace()
    with open_cluster(options.access) as kube:
        found = kube.get(IMAGE, namespace, options.parent)
    if found is None:
        raise ImageMissing(f"--parent: VMImageNode {namespace}/{options.parent} does not exist")
    return parse_digest(found["spec"]["layer"]["digest"])


def emit(objects: Sequence[dict[str, Any]], access: Access, apply: bool, form: Format) -> None:
    """Applies the VMImageNodes, or prints them: as YAML, or as JSON if that is asked for."""
    if apply:
        namespace = access.default_namespace()
        with open_cluster(access, manager=MANAGER) as kube:
            for each in objects:
                kube.apply(IMAGE, namespace, each)
        say(f"{len(objects)} VMImageNodes applied in {namespace}")
    if form is Format.JSON:
        show(list(objects), lambda: "", form)
    elif form is Format.YAML or not apply:
        import yaml

        print(yaml.safe_dump_all(objects, sort_keys=False), end="")


def default_layers() -> Path:
    """Folder of layers of the calling user."""
    cache = os.environ.get("KIGI_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kigi"
    return Path(cache) / "published"
