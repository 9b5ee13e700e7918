"""``kigi export``: a state or an image, with everything that it depends on, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM
from kigi.cli.api_trees import read_api_trees
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.named_layers import read_digests
from kigi.cli.options import PATH, cluster_options, repository_options
from kigi.cli.output import Format, print_data, print_message, print_result
from kigi.cli.progress import Bars, progress_bars
from kigi.cli.reach import check_extra, open_chosen, open_of_image
from kigi.cli.repositories import RepositoryChoice
from kigi.domain.archive import FORMAT, Selection, declared_layers, select
from kigi.domain.collection import layer_of
from kigi.domain.images import Image
from kigi.domain.layers import MAX_DEPTH, Digest
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import System
from kigi.domain.tree_names import name_in, place_of
from kigi.errors import ImageMissing, SpecInvalid

if TYPE_CHECKING:
    from kigi.adapters.s3 import LayerBucket
    from kigi.publishing.archive import ArchivedNode

_FORMATS = (Format.TABLE, Format.JSON, Format.YAML)
_NODE_REFS = frozenset({"parentRef", "imageRef", "memoryRef"})
Specs = dict[tuple[str, str], dict[str, Any]]
"""(kind, name in the caller's namespace) -> spec, as the API server has it."""


@click.command("export")
@click.argument("node", required=False)
@click.option("--to", "file", type=PATH, help="File to write.")
@click.option("--have", type=PATH, help="List of layers to leave out: 'kigi export --list-have' of the other site.")
@click.option("--children", is_flag=True, help="Include all descendants of the node.")
@click.option("--list-have", is_flag=True, help="Print the digests that the repository holds, and nothing else.")
@click.option("--output", "-o", "output", help="json or yaml: print what was written, for programs.")
@repository_options()
@cluster_options()
def command(
    access: Access,
    node: str | None,
    file: Path | None,
    have: Path | None,
    children: bool,
    list_have: bool,
    output: str | None,
    repository: RepositoryChoice,
) -> None:
    """Write a state or an image with its layers into a file.

    The file also holds everything that the node depends on; 'kigi import' reads it at another site.

    \b
    NODE: SystemNode or VMImageNode; state/NAME or image/NAME if both have that name.
    """
    import asyncio

    form, target = file_or_format(output, file)
    if list_have:
        digests = asyncio.run(_list_layers(access, repository))
        print_data([str(digest) for digest in digests], lambda: "\n".join(digests), form)
        return
    if node is None or target is None:
        raise click.UsageError("name a node and a file: kigi export NODE --to FILE")
    held = frozenset(read_digests(have)) if have is not None else frozenset[Digest]()
    with progress_bars() as bars:
        done = asyncio.run(_export(access, node, target, held, repository, bars, children=children))
    print_message(
        f"{target}: {format_bytes(done['sizeBytes'])}, {done['images']} images, {done['states']} states, "
        f"{done['includedLayers']} of {done['layers']} layers"
    )
    print_result(done, form)


def file_or_format(output: str | None, file: Path | None) -> tuple[Format, Path | None]:
    """The format of ``-o`` and the file of ``--to``.

    Until 0.2, ``-o`` also takes the file, as it did in the first release; a notice names ``--to``.
    """
    if output is None or output in _FORMATS:
        return Format(output or Format.TABLE), file
    if file is not None:
        raise click.BadParameter(f"{output!r} is none of {', '.join(_FORMATS)}", param_hint="'--output' / '-o'")
    print_message(f"-o {output}: -o names a format in all verbs; write --to {output} (-o FILE ends with release 0.2)")
    return Format.TABLE, Path(output)


async def _list_layers(access: Access, repository: RepositoryChoice) -> list[Digest]:
    async with open_chosen(repository, access, writes=False) as store:
        objects, _ = await store.objects()
    return sorted(digest for item in objects if (digest := layer_of(item.key)) is not None)


async def _export(
    access: Access,
    node: str,
    output: Path,
    held: frozenset[Digest],
    repository: RepositoryChoice,
    bars: Bars,
    *,
    children: bool,
) -> dict[str, Any]:
    """Writes the file; what it holds, as JSON. Raises KigiError, and then there is no file."""
    from kigi.publishing.archive import Manifest, write_archive

    check_extra()
    images, systems, specs = _read(access)
    state, image = which(node, images, systems)
    chosen = select(images, systems, state=state, image=image, children=children)
    name_in_file = names_in_file(chosen)
    layers = declared_layers(
        {name_in_file(name): images[name].seen_from(name_in_file) for name in chosen.images},
        {name_in_file(name): systems[name].seen_from(name_in_file) for name in chosen.systems},
        MAX_DEPTH,
    )
    included = {digest: layer for digest, layer in layers.items() if digest not in held}
    manifest = Manifest(
        format=FORMAT,
        images=[_archived(name_in_file(name), specs[IMAGE.kind, name]) for name in chosen.images],
        systems=[_archived(name_in_file(name), specs[SYSTEM.kind, name]) for name in chosen.systems],
        included=list(included),
    )
    repository_of = {images[name].digest: images[name].repository for name in chosen.images}
    async with AsyncExitStack() as stack:
        opened: dict[str | None, LayerBucket] = {}
        for name in {repository_of[digest] for digest in included}:
            opened[name] = await stack.enter_async_context(open_of_image(repository, access, name, writes=False))
        size_bytes = await write_archive(
            output,
            manifest,
            [(layer, opened[repository_of[digest]]) for digest, layer in included.items()],
            bars.add(str(output), sum(layer.size_bytes for layer in included.values())),
        )
    return {
        "file": str(output),
        "sizeBytes": size_bytes,
        "images": len(chosen.images),
        "states": len(chosen.systems),
        "layers": len(layers),
        "includedLayers": len(included),
    }


def _read(access: Access) -> tuple[dict[str, Image], dict[str, System], Specs]:
    """Both trees of the namespace and what they lead to in others, with the specs; names are those of the namespace."""
    home, specs = access.default_namespace(), Specs()

    def keep(body: Mapping[str, Any]) -> None:
        meta = body["metadata"]
        specs[body["kind"], name_in(home, meta["namespace"], meta["name"])] = body["spec"]

    with open_cluster(access) as kube:
        api_trees = read_api_trees(kube, (IMAGE, SYSTEM), home, strict=True, each=keep)
    return *api_trees.seen_from(home), specs


def names_in_file(chosen: Selection) -> Callable[[str], str]:
    """Names without namespaces: the file has one. Raises SpecInvalid if two nodes would get the same name."""
    for names in (chosen.images, chosen.systems):
        first: dict[str, str] = {}
        for name in names:
            own = place_of("", name)[1]
            if first.setdefault(own, name) != name:
                raise SpecInvalid(f"{first[own]} and {name} would have one name in the file; rename one, then export")
    return lambda name: place_of("", name)[1]


def which(node: str, images: dict[str, Image], systems: dict[str, System]) -> tuple[str | None, str | None]:
    """(name of the state, None) or (None, name of the image); raises SpecInvalid or ImageMissing."""
    kind, slash, name = node.rpartition("/")
    if slash and kind not in ("state", "image"):
        raise SpecInvalid(f"{node!r}: state/NAME or image/NAME")
    state = name if kind != "image" and name in systems else None
    image = name if kind != "state" and name in images else None
    if state and image:
        raise SpecInvalid(f"{name} is a state and an image; name state/{name} or image/{name}")
    if not state and not image:
        raise ImageMissing(f"there is no valid {kind or 'state or image'} {name}")
    return state, image


def _archived(name: str, spec: dict[str, Any]) -> ArchivedNode:
    """Without names of namespaces and of its repository: the other site has its own."""
    from kigi.publishing.archive import ArchivedNode

    own = {key: value for key, value in spec.items() if key != "repositoryRef"}
    return ArchivedNode(name=name, spec=cast("dict[str, Any]", without_namespaces(own)))


def without_namespaces(value: object) -> object:
    """The spec of an image or a state with every reference to another node as one in the same namespace."""
    if isinstance(value, list):
        return [without_namespaces(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: {"name": item["name"]} if key in _NODE_REFS else item if key == "patch" else without_namespaces(item)
        for key, item in value.items()
    }
