"""``kigi import``: check everything, then store the layers, then create the nodes, parents first.

Whatever is wrong with the file, or stands against it at this site, is found before the first layer is stored. Each part
can be done again, so a call after a break goes on where it was.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM, Resource
from kigi.adapters.kubernetes.session import KubeSession
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import LayerRepository, Progress, open_repository
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.output import Format, say, tell
from kigi.cli.progress import Bars, bars
from kigi.cli.verbs.publish import MANAGER, default_layers
from kigi.domain import names
from kigi.domain.archive import DeclaredLayer, declared_layers, differs
from kigi.domain.images import Image, image_path
from kigi.domain.layers import DEFAULT_REPOSITORY, Digest
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import System, system_path
from kigi.errors import ArchiveRefused, Conflict, LayerCorrupt, LayerMissing, NameTaken
from kigi.mirror.parse import parse
from kigi.mirror.records import ImageRecord, SystemRecord
from kigi.publishing.archive import Archive, check_declared, extract_layer, open_archive, verify_archive


def run_import(
    file: Path,
    access: Access,
    *,
    layers_dir: Path | None,
    repository: str,
    settings: Path | None,
    form: Format = Format.TABLE,
) -> None:
    """Raises KigiError; nothing is created unless every layer is stored."""
    with bars() as drawn:
        done = asyncio.run(_import(file, access, layers_dir or default_layers(), repository, settings, drawn))
    say(
        f"{file}: {done['layers']} layers checked, {format_bytes(done['storedBytes'])} stored; {len(done['created'])} "
        f"of {done['nodes']} images and states created in {done['namespace']}"
    )
    tell(done, form)


async def _import(
    file: Path, access: Access, folder: Path, repository: str, settings: Path | None, drawn: Bars
) -> dict[str, Any]:
    """What was done, for programs."""
    archive = await asyncio.to_thread(open_archive, file)
    images, systems = _nodes(archive)
    namespace = access.default_namespace()
    async with open_repository(load_repositories(settings).get(repository)) as store:
        with open_cluster(access, manager=MANAGER) as kube:
            layers = declared_layers(images, systems, store.max_depth)
            objects = _objects(archive, images, systems, namespace, repository)
            missing = [each for each in objects if _is_missing(kube, *each)]
            for resource, manifest in missing:
                kube.create(resource, manifest, dry_run=True)
            size_bytes = sum(layer.size_bytes for layer in layers.values() if layer.digest in archive.manifest.included)
            await asyncio.to_thread(verify_archive, archive, layers, drawn.add("checked", size_bytes))
            await _check_left_out(store, archive, layers)
            sent = await _store(store, archive, layers, folder, drawn.add("stored", size_bytes))
            for resource, manifest in missing:
                try:
                    kube.create(resource, manifest)
                except Conflict:  # created meanwhile: by the same import, or it is told
                    _is_missing(kube, resource, manifest)
    return {
        "namespace": namespace,
        "layers": len(layers),
        "storedBytes": sent,
        "nodes": len(objects),
        "created": [{"kind": resource.kind, "name": manifest["metadata"]["name"]} for resource, manifest in missing],
    }


def _nodes(archive: Archive) -> tuple[dict[str, Image], dict[str, System]]:
    """Both trees of the manifest; raises ArchiveRefused for a node that is invalid, or twice."""
    images: dict[str, Image] = {}
    systems: dict[str, System] = {}
    for resource, nodes in ((IMAGE, archive.manifest.images), (SYSTEM, archive.manifest.systems)):
        for node in nodes:
            record = parse(resource.kind, {"metadata": {"name": node.name}, "spec": node.spec})
            found: object = None
            if isinstance(record, ImageRecord | SystemRecord):
                found = record.image if isinstance(record, ImageRecord) else record.system
            if isinstance(found, Image) and node.name not in images:
                images[node.name] = found
            elif isinstance(found, System) and node.name not in systems:
                systems[node.name] = found
            else:
                raise ArchiveRefused(f"{resource.kind} {node.name} is in it twice, or is invalid: {found}")
    return images, systems


def _objects(
    archive: Archive, images: Mapping[str, Image], systems: Mapping[str, System], namespace: str, repository: str
) -> list[tuple[Resource, dict[str, Any]]]:
    """Every node's manifest for this site, parents first."""
    depth = {(IMAGE, name): len(image_path(images, name)) for name in images}
    depth |= {(SYSTEM, name): MAX + len(system_path(systems, name)) for name in systems}
    made: list[tuple[Resource, dict[str, Any]]] = []
    for resource, nodes in ((IMAGE, archive.manifest.images), (SYSTEM, archive.manifest.systems)):
        for node in nodes:
            spec = dict(node.spec)
            if resource is IMAGE:
                elsewhere = {"repository": repository} if repository != DEFAULT_REPOSITORY else {}
                spec["layer"] = {k: v for k, v in spec["layer"].items() if k != "repository"} | elsewhere
            meta = {"name": node.name, "namespace": namespace}
            made.append(
                (resource, {"apiVersion": names.API_VERSION, "kind": resource.kind, "metadata": meta, "spec": spec})
            )
    return sorted(made, key=lambda each: depth[each[0], each[1]["metadata"]["name"]])


MAX = 1000
"""States come after all images."""


def _is_missing(kube: KubeSession, resource: Resource, manifest: Mapping[str, Any]) -> bool:
    """Raises NameTaken if there is another one of that name."""
    meta, spec = manifest["metadata"], manifest["spec"]
    found = kube.get(resource, meta["namespace"], meta["name"])
    if found is None:
        return True
    there = found.get("spec", {})
    more = any(key in there and key not in spec for key in ("parent", "networks", "machines"))
    if more or differs({**there, "description": spec.get("description")}, spec):
        raise NameTaken(
            f"{resource.kind} {meta['namespace']}/{meta['name']} exists and is another one; import into another "
            "namespace, or delete it"
        )
    return False


async def _check_left_out(store: LayerRepository, archive: Archive, layers: Mapping[Digest, DeclaredLayer]) -> None:
    """The layers that are not in the file are in the repository, and are what the file says."""
    included = set(archive.manifest.included)
    for layer in layers.values():
        if layer.digest in included:
            continue
        size_bytes = await store.size_of(layer.digest)
        if size_bytes is None:
            raise LayerMissing(
                f"layer {layer.digest} is neither in the file nor in the repository; export again with a --have list "
                "of this site, or without one"
            )
        if size_bytes != layer.size_bytes:
            raise LayerCorrupt(f"layer {layer.digest} is stored with {size_bytes} bytes instead of {layer.size_bytes}")
        check_declared(await store.head(layer.digest), layer)


async def _store(
    store: LayerRepository,
    archive: Archive,
    layers: Mapping[Digest, DeclaredLayer],
    folder: Path,
    progress: Progress,
) -> int:
    """Stores what the repository lacks, in the file's order; bytes that were sent."""
    folder.mkdir(parents=True, exist_ok=True)
    sent = 0
    for layer, at in archive.places(layers):
        if await store.size_of(layer.digest) == layer.size_bytes:
            progress(layer.size_bytes)
            continue
        with tempfile.TemporaryDirectory(dir=folder, prefix=".import-") as scratch:
            target = Path(scratch) / "layer.qcow2"
            await asyncio.to_thread(extract_layer, archive, layer, at, target)
            if await store.publish(target, layer.digest, progress):
                sent += layer.size_bytes
            elif await store.size_of(layer.digest) != layer.size_bytes:
                raise LayerCorrupt(f"layer {layer.digest}: the repository neither took it nor has it; call again")
    return sent
