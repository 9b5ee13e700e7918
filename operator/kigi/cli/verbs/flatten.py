"""``kigi flatten``: makes an image that shows a guest the same bytes on a shorter chain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import IMAGE
from kigi.cli.api_trees import read_api_trees
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.image_nodes import emit
from kigi.cli.options import apply_option, cluster_options, layers_dir_option, repository_options, result_option
from kigi.cli.output import Format, print_message
from kigi.cli.progress import Bars, progress_bars
from kigi.cli.reach import check_extra, open_of_image
from kigi.cli.repositories import RepositoryChoice, default_layers_dir
from kigi.domain.images import Image, image_path
from kigi.domain.quantities import format_bytes
from kigi.errors import NameTaken, SpecInvalid

if TYPE_CHECKING:
    from kigi.publishing.publish import Published


@dataclass(frozen=True, slots=True)
class Chain:
    """The image to flatten, as the cluster has it."""

    path: tuple[Image, ...]
    """Images from the root to the one to flatten."""
    spec: dict[str, Any]
    """Spec of the VMImageNode to flatten."""

    @property
    def top(self) -> Image:
        """The image to flatten."""
        return self.path[-1]

    @property
    def size_bytes(self) -> int:
        """Size of all layers."""
        return sum(image.size_bytes for image in self.path)


@click.command("flatten")
@click.argument("image")
@click.option("--name", required=True, help="Name of the new VMImageNode.")
@click.option("--parent", help="Ancestor that stays below the new image; default: none, the new image is a root.")
@apply_option
@layers_dir_option
@repository_options(name=False)
@result_option
@cluster_options()
def command(
    access: Access,
    image: str,
    name: str,
    parent: str | None,
    apply: bool,
    layers_dir: Path | None,
    repository: RepositoryChoice,
    form: Format,
) -> None:
    """Make an equal image with a shorter chain.

    The new image is stored only if both show a guest the same bytes. The old chain stays.

    \b
    IMAGE: VMImageNode with the chain to shorten.
    """
    import asyncio

    with progress_bars() as bars:
        folder = layers_dir or default_layers_dir()
        made = asyncio.run(_flatten(access, image, name, parent, folder, repository, bars))
    emit([made], access, form, apply=apply)


async def _flatten(
    access: Access,
    image: str,
    name: str,
    parent: str | None,
    layers_dir: Path,
    repository: RepositoryChoice,
    bars: Bars,
) -> dict[str, Any]:
    """The VMImageNode of the new layer; raises KigiError."""
    from kigi.publishing.flatten import flatten_image, layers_above
    from kigi.publishing.layer_folder import LayerFolder

    check_extra()
    chain = _read(access, image, name)
    layers_above(chain.path, parent)
    if len({each.repository for each in chain.path}) > 1:
        raise SpecInvalid(f"VMImageNode {image}: its layers are in several repositories; flatten needs them in one")
    async with open_of_image(repository, access, chain.top.repository) as store:
        fetched, stored = bars.add(f"{len(chain.path)} layers", chain.size_bytes), bars.add("stored")
        published = await flatten_image(chain.path, parent, LayerFolder(layers_dir, fetched), store, stored)
    print_message(
        f"{image}: {len(chain.path)} layers, {format_bytes(chain.size_bytes)}; {name}: one layer of "
        f"{format_bytes(published.layer.size_bytes)} {f'on {parent}' if parent else 'as a root'}, proved equal"
    )
    return _image_node(chain, name, parent, published)


def _read(access: Access, image: str, name: str) -> Chain:
    """Raises NameTaken if ``name`` exists, and ImageMissing or another error of the image's chain."""
    namespace = access.default_namespace()
    with open_cluster(access) as kube:
        api_trees = read_api_trees(kube, (IMAGE,), namespace, strict=True)
        images, _ = api_trees.seen_from(namespace)
        path = image_path(images, image)
        body = kube.get(IMAGE, namespace, image)
    if name in api_trees.images.get(namespace, {}):
        raise NameTaken(f"--name: VMImageNode {namespace}/{name} exists; its layer cannot change, so name another")
    return Chain(tuple(path), (body or {}).get("spec", {}))


def _image_node(chain: Chain, name: str, parent: str | None, published: Published) -> dict[str, Any]:
    from kigi.publishing.image_node import image_object

    return image_object(
        name,
        published,
        parent,
        guest=chain.spec.get("guest"),
        description=chain.spec.get("description"),
        repository=chain.top.repository,
        provenance={"flattened": {"imageName": chain.top.name, "digest": chain.top.digest}},
    )
