"""``kigi gc``: lists or deletes the layers of a repository that no tree names, and unfinished uploads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import Access
from kigi.cli.consent import Consent, consent_options
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.named_layers import Sources, read_named_layers
from kigi.cli.options import PATH, cluster_options, output_option, repository_options
from kigi.cli.output import Format
from kigi.cli.progress import progress_bars
from kigi.cli.reach import check_extra, open_chosen
from kigi.cli.repositories import RepositoryChoice
from kigi.cli.wait import report
from kigi.domain.collection import Collection, StoredVersion, layer_of
from kigi.domain.layers import object_key
from kigi.domain.quantities import format_bytes
from kigi.errors import SpecInvalid

if TYPE_CHECKING:
    from kigi.domain.layers import Digest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command("gc")
@click.option("--delete", is_flag=True, help="Ask, and delete; without it nothing is changed.")
@consent_options
@click.option("--grace", default="24h", show_default=True, help="Age below which nothing is deleted: 30m, 24h, 7d.")
@click.option(
    "--also",
    type=PATH,
    multiple=True,
    help="Kubeconfig of another cluster whose trees use this repository; may be repeated.",
)
@click.option("--keep-file", type=PATH, multiple=True, help="File of digests to keep, one per line; may be repeated.")
@click.option(
    "--versions",
    is_flag=True,
    help="In a bucket with versioning: also the versions that remain of deleted layers, which else keep their space.",
)
@click.option("--all-unused", is_flag=True, help="Delete even if no tree names any layer of the repository.")
@repository_options()
@output_option
@cluster_options(namespace=False)
def command(
    access: Access,
    delete: bool,
    consent: Consent,
    versions: bool,
    grace: str,
    also: tuple[Path, ...],
    keep_file: tuple[Path, ...],
    all_unused: bool,
    repository: RepositoryChoice,
    form: Format,
) -> None:
    """List or delete the layers that no tree names.

    In a bucket that keeps versions, a deleted layer becomes an old version: --versions deletes these, too.

    Unfinished uploads of layers are listed or given up as well. Reads the trees of all namespaces.
    """
    import asyncio

    sources, age = Sources(access, also, keep_file), parse_age(grace)
    with report(form) as done:
        wanted = Wanted(delete, versions, all_unused, consent)
        asyncio.run(_collect(sources, repository, age, done, wanted, form))


def parse_age(text: str) -> timedelta:
    """``30m``, ``24h``, ``7d``, ``90s``; raises OptionInvalid."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise OptionInvalid(f"--grace: {text!r} is no age; write 30m, 24h or 7d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options ask for."""

    delete: bool
    versions: bool
    all_unused: bool
    consent: Consent


async def _collect(
    sources: Sources, repository: RepositoryChoice, grace: timedelta, done: dict[str, Any], wanted: Wanted, form: Format
) -> None:
    """Puts what was found, and then what was deleted, into ``done``; raises KigiError."""
    from kigi.cli.collection import check_unnamed, delete_garbage, delete_versions, find_garbage, find_versions

    check_extra()
    sources.check()
    async with open_chosen(repository, sources.access) as store:

        async def read_named() -> set[Digest]:
            return await read_named_layers(store, sources)

        found = await find_garbage(store, read_named, grace)
        doomed = {item.key for item in found.layers}
        is_versioned = await store.keeps_versions()
        left = await find_versions(store, doomed, read_named, grace) if wanted.versions else ()
        done.update(_data(found, is_versioned, left))
        if form is Format.TABLE:
            _print(found, is_versioned, left, wanted)
        if not wanted.delete or wanted.consent.dry_run or not (found.layers or found.uploads or left):
            return
        if (found.layers or left) and not found.named and not wanted.all_unused:
            raise SpecInvalid(
                f"no tree that was read names any of the {_objects(found)} layers of the repository: is this its "
                "cluster? Name another one with --also, or confirm with --all-unused"
            )
        wanted.consent.obtain(_question(found, left))
        with progress_bars() as bars:
            advance = bars.add("layers deleted", len(found.layers), items=True)
            await delete_garbage(store, found, read_named, done, advance)
        if wanted.versions:
            deleted = {object_key(digest) for digest in done["deleted"]}
            await delete_versions(store, await find_versions(store, deleted, read_named, grace), read_named, done)
        else:
            done["freedBytes"] = 0 if is_versioned else done["deletedBytes"]
        if form is Format.TABLE:
            _print_deleted(done, wanted)
        if done["deleted"]:
            await check_unnamed(store, done["deleted"], read_named)


def _question(found: Collection, left: tuple[StoredVersion, ...]) -> str:
    versions = f" and {len(left)} versions" if left else ""
    return (
        f"delete {len(found.layers)} layers, {format_bytes(found.size_bytes)},{versions} and give up "
        f"{len(found.uploads)} uploads, for good?"
    )


def _objects(found: Collection) -> int:
    return len(found.layers) + found.named + found.young + found.foreign


def _data(found: Collection, is_versioned: bool | None, left: tuple[StoredVersion, ...]) -> dict[str, Any]:
    """The result as JSON before anything is deleted. ``freedBytes`` counts only what the server keeps no longer."""
    return {
        "unused": [
            {"digest": layer_of(item.key), "sizeBytes": item.size_bytes, "stored": item.modified.isoformat()}
            for item in found.layers
        ],
        "unusedBytes": found.size_bytes,
        "unfinishedUploads": [upload.key for upload in found.uploads],
        "named": found.named,
        "young": found.young,
        "foreign": found.foreign,
        "versioned": is_versioned,
        "oldVersions": len(left),
        "oldVersionBytes": sum(version.size_bytes for version in left),
        "deleted": [],
        "deletedBytes": 0,
        "versionsDeleted": 0,
        "versionsRefused": 0,
        "freedBytes": 0,
    }


def _print(found: Collection, is_versioned: bool | None, left: tuple[StoredVersion, ...], wanted: Wanted) -> None:
    for item in found.layers:
        print(f"{item.key.rpartition('/')[2]}  {item.size_bytes:>14}  {item.modified:%Y-%m-%d %H:%M}")
    for upload in found.uploads:
        print(f"{upload.key.rpartition('/')[2]}  unfinished since {upload.started:%Y-%m-%d %H:%M}")
    print(
        f"{len(found.layers)} layers that no tree names, {found.size_bytes} bytes ({format_bytes(found.size_bytes)}), "
        f"and {len(found.uploads)} unfinished uploads; kept: {found.named} named, "
        f"{found.young} younger than the grace period, {found.foreign} other objects"
    )
    if wanted.versions:
        size_bytes = sum(version.size_bytes for version in left)
        size = f"{size_bytes} bytes ({format_bytes(size_bytes)})"
        print(f"{len(left)} versions and delete markers of such layers, {size}")
    elif is_versioned:
        print(
            "the bucket keeps versions: a deleted layer frees no space; --versions finds what remains, and --delete "
            "--versions deletes it, as a lifecycle rule of the bucket does"
        )
    elif is_versioned is None:
        print(
            "whether the bucket keeps versions is unknown (no right GetBucketVersioning); if it does, a deleted layer "
            "frees no space without --versions"
        )
    if not (wanted.delete and not wanted.consent.dry_run) and (found.layers or found.uploads or left):
        print("nothing was deleted; --delete does it")


def _print_deleted(done: dict[str, Any], wanted: Wanted) -> None:
    text = f"deleted {len(done['deleted'])} layers, {format_bytes(done['deletedBytes'])}"
    if wanted.versions:
        text += f", and {done['versionsDeleted']} versions and delete markers, {format_bytes(done['freedBytes'])}"
    elif done["versioned"]:
        text += ", which remain as old versions and keep their space"
    print(f"{text}; gave up {done['uploadsGivenUp']} unfinished uploads")
    if done["versionsRefused"]:
        print(
            f"{done['versionsRefused']} versions stay: the server refuses to delete them (403), as their retention is "
            "not over, or the right DeleteObjectVersion is missing"
        )
