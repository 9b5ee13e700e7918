"""``kigi import``: checks everything, then stores the layers, then creates the nodes, parents first.

A damaged file, or a conflict with objects of this site, is found before the first layer is stored. Each step can be
repeated, so a call after an interruption resumes where the last one stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM, Resource
from kigi.cli.cluster import PUBLISH_MANAGER, Access, open_cluster
from kigi.cli.options import PATH, cluster_options, layers_dir_option, repository_options, result_option
from kigi.cli.output import Format, print_message, print_result
from kigi.cli.progress import Bars, progress_bars
from kigi.cli.reach import check_extra, open_chosen
from kigi.cli.repositories import RepositoryChoice, default_layers_dir
from kigi.domain import names
from kigi.domain.archive import declared_layers
from kigi.domain.comparison import includes
from kigi.domain.images import Image, image_path
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import System, system_path
from kigi.errors import ArchiveRefused, Conflict, NameTaken

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.publishing.archive import Archive

_TEXTS = ("description", "provenance")
"""Fields for people, in which an existing node may differ from the imported one."""
Node = tuple[Resource, dict[str, Any]]
"""A node's kind and its manifest for this site."""


@click.command("import")
@click.argument("file", type=PATH)
@layers_dir_option
@repository_options()
@result_option
@cluster_options()
def command(access: Access, file: Path, layers_dir: Path | None, repository: RepositoryChoice, form: Format) -> None:
    """Store the layers of an export and create its objects.

    After an interruption, call it again.

    \b
    FILE: file that 'kigi export' wrote.
    """
    import asyncio

    with progress_bars() as bars:
        done = asyncio.run(_import(file, access, layers_dir or default_layers_dir(), repository, bars))
    print_message(
        f"{file}: {done['layers']} layers checked, {format_bytes(done['storedBytes'])} stored; {len(done['created'])} "
        f"of {done['nodes']} images and states created in {done['namespace']}"
    )
    print_result(done, form)


async def _import(file: Path, access: Access, folder: Path, repository: RepositoryChoice, bars: Bars) -> dict[str, Any]:
    """What was done, as JSON; raises KigiError. No node is created before every layer is stored."""
    import asyncio

    from kigi.publishing.archive import open_archive, verify_archive
    from kigi.publishing.archive_layers import check_left_out, store_layers

    check_extra()
    archive = await asyncio.to_thread(open_archive, file)
    images, systems = _parse(archive)
    namespace = access.default_namespace()
    async with open_chosen(repository, access) as store:
        with open_cluster(access, manager=PUBLISH_MANAGER) as kube:
            layers = declared_layers(images, systems, store.max_depth)
            nodes = _nodes(archive, images, systems, namespace, repository.name)
            missing = [node for node in nodes if _is_missing(kube, *node)]
            for resource, manifest in missing:
                kube.create(resource, manifest, dry_run=True)
            size_bytes = sum(layer.size_bytes for layer in layers.values() if layer.digest in archive.manifest.included)
            await asyncio.to_thread(verify_archive, archive, layers, bars.add("checked", size_bytes))
            await check_left_out(store, archive, layers)
            sent_bytes = await store_layers(store, archive, layers, folder, bars.add("stored", size_bytes))
            _create(kube, missing)
    return {
        "namespace": namespace,
        "layers": len(layers),
        "storedBytes": sent_bytes,
        "nodes": len(nodes),
        "created": [{"kind": resource.kind, "name": manifest["metadata"]["name"]} for resource, manifest in missing],
    }


def _parse(archive: Archive) -> tuple[dict[str, Image], dict[str, System]]:
    """Both trees of the manifest; raises ArchiveRefused for a node that is invalid, or occurs twice."""
    from kigi.mirror.parse import parse
    from kigi.mirror.records import ImageRecord, SystemRecord

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


def _nodes(
    archive: Archive, images: Mapping[str, Image], systems: Mapping[str, System], namespace: str, repository: str | None
) -> list[Node]:
    """Every node: images before states, each parents first."""
    return [
        *(
            (IMAGE, _manifest(IMAGE, node.name, namespace, _at(repository, node.spec)))
            for node in sorted(archive.manifest.images, key=lambda node: len(image_path(images, node.name)))
        ),
        *(
            (SYSTEM, _manifest(SYSTEM, node.name, namespace, node.spec))
            for node in sorted(archive.manifest.systems, key=lambda node: len(system_path(systems, node.name)))
        ),
    ]


def _at(repository: str | None, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of an image whose layer is in that repository."""
    own = {key: value for key, value in spec.items() if key != "repositoryRef"}
    return own if repository is None else {**own, "repositoryRef": {"name": repository}}


def _manifest(resource: Resource, name: str, namespace: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": names.API_VERSION, "kind": resource.kind, "metadata": metadata, "spec": dict(spec)}


def _is_missing(kube: KubeSession, resource: Resource, manifest: Mapping[str, Any]) -> bool:
    """Whether the node must be created; raises NameTaken if a different one has its name."""
    meta, spec = manifest["metadata"], manifest["spec"]
    found = kube.get(resource, meta["namespace"], meta["name"])
    if found is None:
        return True
    existing = found.get("spec", {})
    more = any(key in existing and key not in spec for key in ("parentRef", "networks", "machines"))
    if more or not includes({**existing, **{key: spec.get(key) for key in _TEXTS}}, spec):
        raise NameTaken(
            f"{resource.kind} {meta['namespace']}/{meta['name']} exists and is another one; import into another "
            "namespace, or delete it"
        )
    return False


def _create(kube: KubeSession, missing: list[Node]) -> None:
    for resource, manifest in missing:
        try:
            kube.create(resource, manifest)
        except Conflict:  # created meanwhile: accepted if it is equal, as by the same import
            _is_missing(kube, resource, manifest)
