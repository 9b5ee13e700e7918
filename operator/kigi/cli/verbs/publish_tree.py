"""``kigi publish-tree``: stores the images of a folder with a ``manifest.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import Access
from kigi.cli.image_nodes import emit
from kigi.cli.options import (
    PATH,
    apply_option,
    cluster_options,
    layers_dir_option,
    repository_options,
    result_option,
)
from kigi.cli.output import Format, print_message
from kigi.cli.progress import Bars, progress_bars
from kigi.cli.reach import check_extra, open_chosen
from kigi.cli.repositories import RepositoryChoice, default_layers_dir
from kigi.domain.quantities import format_bytes

if TYPE_CHECKING:
    from kigi.publishing.image_tree import TreeImage
    from kigi.publishing.publish import Published


@click.command("publish-tree")
@click.argument("folder", type=PATH)
@apply_option
@layers_dir_option
@repository_options()
@result_option
@cluster_options()
def command(
    access: Access,
    folder: Path,
    apply: bool,
    layers_dir: Path | None,
    repository: RepositoryChoice,
    form: Format,
) -> None:
    """Store every image of a folder, parents first.

    Each image is named by a VMImageNode. After an interruption, call it again: stored layers are not sent twice.

    \b
    FOLDER: folder with manifest.json and the images that it names.
    """
    import asyncio

    with progress_bars() as bars:
        objects = asyncio.run(_publish(folder, layers_dir or default_layers_dir(), repository, access, bars))
    emit(objects, access, form, apply=apply)


async def _publish(
    folder: Path, layers_dir: Path, repository: RepositoryChoice, access: Access, bars: Bars
) -> list[dict[str, Any]]:
    from kigi.publishing.image_tree import load_manifest, publish_tree
    from kigi.publishing.layer_folder import LayerFolder

    check_extra()
    images = load_manifest(folder).images
    advance, send = bars.add("images", len(images), items=True), bars.add("stored")

    def report(image: TreeImage, published: Published) -> None:
        advance(1)
        what = "stored" if published.sent else "was there"
        print_message(f"{image.name:24} {format_bytes(published.layer.size_bytes):>10}  {what}")

    async with open_chosen(repository, access) as store:
        layers = LayerFolder(layers_dir)
        return await publish_tree(folder, layers, store, report, send, repository_name=repository.name)
