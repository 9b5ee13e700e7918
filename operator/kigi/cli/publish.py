"""``kigi publish`` and ``kigi publish-tree``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config, dynamic
from kubernetes.client import ApiClient, ApiException
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from kigi.adapters.s3 import open_repository
from kigi.api.repositories import Repository, load_repositories
from kigi.domain import names
from kigi.domain.layers import DEFAULT_REPOSITORY, Digest, parse_digest
from kigi.domain.quantities import format_bytes
from kigi.errors import ImageMissing, KigiError, SpecInvalid, Unreachable
from kigi.publishing.levels import level_names, publish_levels
from kigi.publishing.publish import LayerFolder, Published, publish_image
from kigi.publishing.tree import TreeImage, image_object
from kigi.publishing.tree import publish_tree as publish_folder

_console = Console(stderr=True, markup=False)


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
    namespace: str
    apply: bool
    levels: bool
    backing_dirs: tuple[Path, ...]
    layers_dir: Path | None
    store: StoreOptions


def run_publish(options: PublishOptions) -> None:
    """Publish one image, or one per level; raises KigiError."""
    published = asyncio.run(_publish(options))
    made: list[dict[str, Any]] = []
    parent = options.parent
    for name, each in zip(level_names(options.name, len(published)), published, strict=True):
        what = "stored" if each.sent else "was there already"
        _console.print(f"{each.layer.digest} {what}, {format_bytes(each.layer.size_bytes)}")
        repository = None if options.store.name == DEFAULT_REPOSITORY else options.store.name
        made.append(
            image_object(name, each, parent, os=options.os, description=options.description, repository=repository)
        )
        parent = name
    emit(made, options.namespace, options.apply)


def run_publish_tree(
    folder: Path, *, namespace: str, apply: bool, layers_dir: Path | None, store: StoreOptions
) -> None:
    """Publish a folder; raises KigiError."""

    def report(image: TreeImage, published: Published) -> None:
        what = "stored" if published.sent else "was there"
        _console.print(f"{image.name:24} {format_bytes(published.layer.size_bytes):>10}  {what}")

    async def work() -> list[dict[str, Any]]:
        async with open_repository(store.repository()) as opened:
            return await publish_folder(folder, LayerFolder(layers_dir or default_layers()), opened, report)

    emit(asyncio.run(work()), namespace, apply)


async def _publish(options: PublishOptions) -> list[Published]:
    settings = options.store.repository()
    parent = _parent_digest(options)
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    folder = LayerFolder(options.layers_dir or default_layers())
    async with open_repository(settings) as store:
        with Progress(*columns, console=_console, transient=True) as bars:
            bar = bars.add_task("upload", total=None)

            def advance(count: int) -> None:
                bars.advance(bar, count)

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
    try:
        found = _images().get(name=options.parent, namespace=options.namespace)
    except ApiException as exc:
        if exc.status == 404:
            raise ImageMissing(f"--parent: VMImageNode {options.namespace}/{options.parent} does not exist") from exc
        raise _translated(exc) from exc
    return parse_digest(found.spec.layer.digest)


def emit(objects: Sequence[Mapping[str, Any]], namespace: str, apply: bool) -> None:
    """Applies the VMImageNodes, or prints them as YAML."""
    if not apply:
        print(yaml.safe_dump_all(objects, sort_keys=False), end="")
        return
    images = _images()
    for each in objects:
        try:
            images.server_side_apply(body=dict(each), namespace=namespace, field_manager="kigi", force_conflicts=True)
        except ApiException as exc:
            raise _translated(exc) from exc
    _console.print(f"{len(objects)} VMImageNodes applied in {namespace}")


def _images() -> Any:
    try:
        config.load_config()  # type: ignore[no-untyped-call]
        client = dynamic.DynamicClient(ApiClient())  # type: ignore[no-untyped-call]
        return client.resources.get(api_version=names.API_VERSION, kind="VMImageNode")
    except config.ConfigException as exc:
        raise SpecInvalid(f"no cluster is configured: {exc}") from exc
    except ApiException as exc:
        raise _translated(exc) from exc
    except Exception as exc:  # urllib3 and the discovery of kinds raise their own families
        raise Unreachable(f"the API server does not answer, or lacks Kigi's CRDs: {exc}") from exc


def _translated(exc: ApiException) -> KigiError:
    detail = str(exc.body or exc.reason)[:500]
    return SpecInvalid(detail) if exc.status in (400, 403, 409, 422) else Unreachable(detail)


def default_layers() -> Path:
    """Folder of layers of the calling user."""
    cache = os.environ.get("KIGI_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kigi"
    return Path(cache) / "published"
