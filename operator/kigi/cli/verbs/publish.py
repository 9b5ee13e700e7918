"""``kigi publish``: stores a disk image as one layer, or each of its backing files as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import IMAGE
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.exit_codes import OptionInvalid
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
from kigi.cli.progress import progress_bars
from kigi.cli.reach import check_extra, open_chosen
from kigi.cli.repositories import RepositoryChoice, default_layers_dir
from kigi.domain.layers import Digest, parse_digest
from kigi.domain.quantities import format_bytes
from kigi.domain.tree_names import place_of
from kigi.errors import ImageMissing

if TYPE_CHECKING:
    from kigi.publishing.publish import Published


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments and options as click passes them."""

    file: Path
    name: str
    parent: str | None
    parent_digest: str | None
    image_format: str | None
    description: str | None
    os: str | None
    architecture: str | None
    firmware: str | None
    levels: bool
    backing_dir: tuple[Path, ...]
    apply: bool
    layers_dir: Path | None
    repository: RepositoryChoice
    access: Access
    form: Format

    @property
    def guest(self) -> dict[str, str]:
        """The given facts about the guest."""
        facts = {"os": self.os, "architecture": self.architecture, "firmware": self.firmware}
        return {name: value for name, value in facts.items() if value is not None}


@click.command("publish")
@click.argument("file", type=PATH)
@click.option("--name", required=True, help="Name of the VMImageNode.")
@click.option("--parent", help="VMImageNode of which the image is a difference; NAMESPACE/NAME in another namespace.")
@click.option("--parent-digest", help="Digest of the parent's layer; default: the API server is asked.")
@click.option("--format", "image_format", help="qcow2, raw or vmdk; default: detected from the file.")
@click.option("--description", help="Free text.")
@click.option("--os", help="Operating system, free text.")
@click.option(
    "--architecture", help="Processor architecture of the guest, such as amd64; default: the parent's, or any."
)
@click.option("--firmware", type=click.Choice(["BIOS", "EFI"]), help="Firmware of the guest; default: the parent's.")
@click.option(
    "--levels/--flat", help="Each backing file as an image of its own (the root is NAME-level0), or one image."
)
@click.option(
    "--backing-dir",
    type=PATH,
    multiple=True,
    help="Folder, besides the image's own, whose files may be read as backing files; may be repeated.",
)
@apply_option
@layers_dir_option
@repository_options()
@result_option
@cluster_options()
def command(**values: Any) -> None:
    """Store a disk image as a layer, named by a VMImageNode.

    \b
    FILE: image in qcow2 (with its backing files, if it has any), raw or vmdk.
    """
    import asyncio

    from kigi.publishing.image_node import image_object
    from kigi.publishing.levels import level_names

    options = Options(**values)
    published = asyncio.run(_publish(options))
    objects: list[dict[str, Any]] = []
    parent = options.parent
    for name, each in zip(level_names(options.name, len(published)), published, strict=True):
        what = "stored" if each.sent else "was there already"
        print_message(f"{each.layer.digest} {what}, {format_bytes(each.layer.size_bytes)}")
        objects.append(
            image_object(
                name,
                each,
                parent,
                guest=options.guest,
                description=options.description,
                repository=options.repository.name,
            )
        )
        parent = name
    emit(objects, options.access, options.form, apply=options.apply)


async def _publish(options: Options) -> list[Published]:
    """One layer, or with ``--levels`` one per file, the root first."""
    from kigi.publishing.layer_folder import LayerFolder
    from kigi.publishing.levels import publish_levels
    from kigi.publishing.publish import publish_image

    check_extra()
    parent = _parent_digest(options)
    folder = LayerFolder(options.layers_dir or default_layers_dir())
    async with open_chosen(options.repository, options.access) as store:
        with progress_bars() as bars:
            progress = bars.add("stored")
            if options.levels:
                return await publish_levels(
                    options.file, folder, store, parent=parent, backing_dirs=options.backing_dir, progress=progress
                )
            published = await publish_image(
                options.file,
                folder,
                store,
                parent=parent,
                image_format=options.image_format,
                backing_dirs=options.backing_dir,
                progress=progress,
            )
            return [published]


def _parent_digest(options: Options) -> Digest | None:
    if options.parent_digest is not None:
        try:
            return parse_digest(options.parent_digest)
        except ValueError as exc:
            raise OptionInvalid(f"--parent-digest: {exc}") from exc
    if options.parent is None:
        return None
    namespace = options.access.default_namespace()
    with open_cluster(options.access) as kube:
        place, name = place_of(namespace, options.parent)
        found = kube.get(IMAGE, place, name)
    if found is None:
        raise ImageMissing(f"--parent: VMImageNode {place}/{name} does not exist")
    return parse_digest(found["spec"]["layer"]["digest"])
