"""``kigi export``: a subtree in one file."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import LayerRepository, open_repository
from kigi.cli.cluster import Access, listed, open_cluster
from kigi.cli.output import say
from kigi.cli.progress import Bars, bars
from kigi.cli.verbs.gc import read_digests
from kigi.domain.archive import FORMAT, declared_layers, select
from kigi.domain.collection import layer_of
from kigi.domain.images import Image
from kigi.domain.layers import MAX_DEPTH, Digest
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import System
from kigi.errors import ImageMissing, SpecInvalid
from kigi.mirror.store import Mirror
from kigi.publishing.archive import ArchivedNode, Manifest, write_archive

Specs = dict[str, dict[str, Any]]


def run_list_have(repository: str, settings: Path | None) -> None:
    """Prints the digests of the repository's layers, one a line."""

    async def work() -> list[str]:
        async with open_repository(load_repositories(settings).get(repository)) as store:
            objects, _ = await store.objects()
        return sorted(digest for item in objects if (digest := layer_of(item.key)) is not None)

    for digest in asyncio.run(work()):
        print(digest)


def run_export(
    access: Access, node: str, output: Path, *, have: Path | None, children: bool, settings: Path | None
) -> None:
    """Writes the file; raises KigiError, and then there is none."""
    held = frozenset(read_digests(have)) if have is not None else frozenset()
    with bars() as drawn:
        text = asyncio.run(_export(access, node, output, held, children, settings, drawn))
    say(text)


async def _export(
    access: Access,
    node: str,
    output: Path,
    held: frozenset[Digest],
    children: bool,
    settings: Path | None,
    drawn: Bars,
) -> str:
    """Writes it; what was written, in words."""
    repositories = load_repositories(settings)
    mirror, specs = _read(access)
    images = {r.meta.name: r.image for r in mirror.images if isinstance(r.image, Image)}
    systems = {r.meta.name: r.system for r in mirror.systems if isinstance(r.system, System)}
    state, image = _which(node, images, systems)
    chosen = select(images, systems, state=state, image=image, children=children)
    layers = declared_layers(
        {name: images[name] for name in chosen.images}, {name: systems[name] for name in chosen.systems}, MAX_DEPTH
    )
    included = {digest: layer for digest, layer in layers.items() if digest not in held}
    manifest = Manifest(
        format=FORMAT,
        images=[_archived(name, specs[IMAGE.kind][name]) for name in chosen.images],
        systems=[_archived(name, specs[SYSTEM.kind][name]) for name in chosen.systems],
        included=list(included),
    )
    where = {images[name].digest: images[name].repository for name in chosen.images}
    async with AsyncExitStack() as stack:
        opened: dict[str, LayerRepository] = {}
        for name in sorted({where[digest] for digest in included}):
            opened[name] = await stack.enter_async_context(open_repository(repositories.get(name)))
        size_bytes = await write_archive(
            output,
            manifest,
            [(layer, opened[where[digest]]) for digest, layer in included.items()],
            drawn.add(str(output), sum(layer.size_bytes for layer in included.values())),
        )
    return (
        f"{output}: {format_bytes(size_bytes)}, {len(chosen.images)} images, {len(chosen.systems)} states, "
        f"{len(included)} of {len(layers)} layers"
    )


def _read(access: Access) -> tuple[Mirror, dict[str, Specs]]:
    mirror = Mirror()
    specs: dict[str, Specs] = {IMAGE.kind: {}, SYSTEM.kind: {}}
    with open_cluster(access) as kube:
        for resource in (IMAGE, SYSTEM):
            for body in listed(kube, resource, access.default_namespace()):
                mirror.put(resource.kind, body)
                specs[resource.kind][body["metadata"]["name"]] = body["spec"]
    return mirror, specs


def _which(node: str, images: dict[str, Image], systems: dict[str, System]) -> tuple[str | None, str | None]:
    """Name of the state, or of the image."""
    kind, slash, name = node.rpartition("/")
    if slash and kind not in ("state", "image"):
        raise SpecInvalid(f"{node!r}: state/NAME or image/NAME")
    state = name if kind != "image" and name in systems else None
    image = name if kind != "state" and name in images else None
    if state and image:
        raise SpecInvalid(f"{name} is a state and an image; say state/{name} or image/{name}")
    if not state and not image:
        raise ImageMissing(f"there is no valid {kind or 'state or image'} {name}")
    return state, image


def _archived(name: str, spec: dict[str, Any]) -> ArchivedNode:
    """Without the repository: the other site has one of its own."""
    layer = {key: value for key, value in spec.get("layer", {}).items() if key != "repository"}
    return ArchivedNode(name=name, spec={**spec, **({"layer": layer} if layer else {})})
