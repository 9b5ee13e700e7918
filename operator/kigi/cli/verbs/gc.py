"""``kigi gc``: layers that no tree names.

Every reading of the trees is a new one: before the decision, before each batch of deletions, and after the last. A
layer that was stored long ago and is named for the first time within a batch is the one case that this cannot see
beforehand; the last reading finds it, and the command fails and says what to publish again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from kigi.adapters.kubernetes.resources import CAPTURE, IMAGE, NODE_CACHE, VOLUME
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import LayerRepository, open_repository
from kigi.api.capture import CapturedDisk
from kigi.cli.cluster import Access, open_cluster, read_mirror
from kigi.cli.output import Format, tell
from kigi.cli.progress import bars
from kigi.domain.collection import Collection, layer_of, plan_collection
from kigi.domain.images import Image
from kigi.domain.layers import MAX_DEPTH, Digest, parse_digest
from kigi.domain.quantities import format_bytes
from kigi.errors import LayerMissing, LayerNotInRepository, SpecInvalid
from kigi.mirror.store import Mirror
from kigi.publishing.layer_folder import parent_in_header

BATCH = 50
"""Deletions between two readings of the trees: a few seconds."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Named:
    """Where everything that must stay is named."""

    access: Access
    clusters: Sequence[Path] = ()
    """Kubeconfigs of further clusters."""
    keep_files: Sequence[Path] = ()


def run_gc(
    access: Access,
    *,
    delete: bool,
    grace: str,
    clusters: Sequence[Path],
    keep_files: Sequence[Path],
    all_unused: bool,
    repository: str,
    settings: Path | None,
    form: Format = Format.TABLE,
) -> None:
    """Prints what nothing needs, and deletes it if that is wished; stops at the first KigiError, which it raises."""
    sources = Named(access, clusters, keep_files)
    done: dict[str, Any] = {}
    try:
        asyncio.run(_gc(sources, delete, parse_age(grace), all_unused, repository, settings, form, done))
    finally:
        if done:
            tell(done, form)


def parse_age(text: str) -> timedelta:
    """``30m``, ``24h``, ``7d``, ``90s``; raises SpecInvalid."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise SpecInvalid(f"--grace: {text!r} is no age; write 30m, 24h or 7d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


async def _gc(
    sources: Named,
    delete: bool,
    grace: timedelta,
    all_unused: bool,
    repository: str,
    settings: Path | None,
    form: Format,
    done: dict[str, Any],
) -> None:
    """``done`` gets what was found, and then what was deleted."""
    for path in sources.clusters:
        if not path.is_file():
            raise SpecInvalid(f"--also: {path} is no file")
    async with open_repository(load_repositories(settings).get(repository)) as store:
        # The bucket first: what is named after that was either listed here, or is young.
        objects, now = await store.objects()
        uploads = await store.uploads()
        named = await _named(store, sources)
        plan = plan_collection(objects, uploads, named, now, grace)
        done.update(_data(plan))
        if form is Format.TABLE:
            _print(plan, delete)
        if not delete or not (plan.layers or plan.uploads):
            return
        if plan.layers and not plan.named and not all_unused:
            raise SpecInvalid(
                f"no tree that was read names any of the {len(objects)} layers of the repository: is this its cluster? "
                "--also names another one; --all-unused says that it is right"
            )
        await _delete(store, plan, sources, form, done)


async def _delete(store: LayerRepository, plan: Collection, sources: Named, form: Format, done: dict[str, Any]) -> None:
    for upload in plan.uploads:
        await store.abort(upload)
    deleted: set[Digest] = set()
    freed = 0
    with bars() as drawn:
        advance = drawn.add("layers deleted", len(plan.layers), things=True)
        for start in range(0, len(plan.layers), BATCH):
            named = await _named(store, sources)
            for item in plan.layers[start : start + BATCH]:
                digest = layer_of(item.key)
                if digest is not None and digest not in named and await store.remove(item):
                    deleted.add(digest)
                    freed += item.size_bytes
                    done.update(deleted=sorted(deleted), freedBytes=freed)
                advance(1)
    done["uploadsGivenUp"] = len(plan.uploads)
    if form is Format.TABLE:
        print(f"deleted {len(deleted)} layers, {format_bytes(freed)}; gave up {len(plan.uploads)} unfinished uploads")
    lost = sorted(deleted & await _named(store, sources)) if deleted else []
    lost = [digest for digest in lost if await store.size_of(digest) is None]
    if lost:
        raise LayerMissing(f"named by a tree while they were deleted, so publish these again: {', '.join(lost)}")


async def _named(store: LayerRepository, sources: Named) -> set[Digest]:
    """Every digest that must stay, wherever it is stored: more than needed rather than less.

    Trees of all namespaces with their chains, what disks stand on, what caches shall hold, what captures have stored,
    and the files' lists.
    """
    named = {digest for path in sources.keep_files for digest in read_digests(path)}
    for access in (sources.access, *(Access(str(path)) for path in sources.clusters)):
        with open_cluster(access) as kube:
            if kube.get(IMAGE, None, "") is None:
                raise SpecInvalid(
                    f"{access.kubeconfig or 'the cluster'} does not have Kigi's kinds; is it the right one?"
                )
            mirror = read_mirror(kube, (IMAGE, VOLUME, NODE_CACHE, CAPTURE), optional=())
        named.update(_named_by(mirror))
        for digest in _open_ended(mirror):
            named.update(await _ancestors(store, digest))
    return named


def _named_by(mirror: Mirror) -> Iterator[Digest]:
    for image in mirror.images:
        if not isinstance(image.image, Image):
            raise image.image
        yield image.image.digest
        for text in (image.status.chain if image.status else None) or ():
            yield parse_digest(text)
    for volume in mirror.volumes:
        yield from (layer.digest for layer in volume.chain)
    for cache in mirror.caches:
        yield from (Digest(layer.digest) for layer in (cache.spec.layers if cache.spec else ()))
    for disk in _captured(mirror):  # stored, and not named by an image yet
        if disk.digest is not None:
            yield parse_digest(disk.digest)


def _captured(mirror: Mirror) -> Iterator[CapturedDisk]:
    """Disks of captures whose layers are named by images, or still will be."""
    for capture in mirror.captures:
        if capture.status is not None and capture.status.phase != "Failed":
            yield from capture.status.disks


def _open_ended(mirror: Mirror) -> Iterator[Digest]:
    """Layers that name a parent of which no image is left: only their headers tell what they stand on."""
    known = {record.image.digest for record in mirror.images if isinstance(record.image, Image)}
    for disk in _captured(mirror):
        if disk.parent not in known:
            yield parse_digest(disk.parent)
    for record in mirror.images:
        image = record.image
        if not isinstance(image, Image) or image.parent is None:
            continue
        if mirror.images.get(record.meta.namespace, image.parent) is None:
            yield image.digest


async def _ancestors(store: LayerRepository, digest: Digest) -> set[Digest]:
    """The layers below one, by the headers of what is stored; ends where the repository does."""
    found: set[Digest] = set()
    at: Digest | None = digest
    while at is not None and at not in found and len(found) <= MAX_DEPTH:
        found.add(at)
        try:
            at = parent_in_header(at, await store.head(at))
        except LayerNotInRepository:
            at = None
    return found


def read_digests(path: Path) -> list[Digest]:
    """Digests of a file, one a line; empty lines and those that begin with # are nothing. Raises SpecInvalid."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
        return [parse_digest(line) for line in lines if line and not line.startswith("#")]
    except (OSError, ValueError) as exc:
        raise SpecInvalid(f"{path}: {exc}") from exc


def _data(plan: Collection) -> dict[str, Any]:
    """The findings for programs; nothing is deleted yet."""
    return {
        "unused": [
            {"digest": layer_of(item.key), "sizeBytes": item.size_bytes, "stored": item.modified.isoformat()}
            for item in plan.layers
        ],
        "unusedBytes": plan.size_bytes,
        "unfinishedUploads": [upload.key for upload in plan.uploads],
        "named": plan.named,
        "young": plan.young,
        "foreign": plan.foreign,
        "deleted": [],
        "freedBytes": 0,
    }


def _print(plan: Collection, delete: bool) -> None:
    for item in plan.layers:
        print(f"{item.key.rpartition('/')[2]}  {item.size_bytes:>14}  {item.modified:%Y-%m-%d %H:%M}")
    for upload in plan.uploads:
        print(f"{upload.key.rpartition('/')[2]}  unfinished since {upload.started:%Y-%m-%d %H:%M}")
    print(
        f"{len(plan.layers)} layers that no tree names, {plan.size_bytes} bytes ({format_bytes(plan.size_bytes)}), "
        f"and {len(plan.uploads)} unfinished uploads; kept: {plan.named} named, "
        f"{plan.young} younger than the grace period, {plan.foreign} other objects"
    )
    if not delete and (plan.layers or plan.uploads):
        print("nothing was deleted; --delete does it")
