"""``kigi gc``: lists or deletes the layers of a repository that no tree names, and unfinished uploads."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import Access
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.named_layers import Sources, read_named_layers
from kigi.cli.options import PATH, cluster_options, output_option, repository_options
from kigi.cli.output import Format
from kigi.cli.progress import progress_bars
from kigi.cli.repositories import RepositoryChoice
from kigi.cli.wait import report
from kigi.domain.collection import Collection, layer_of
from kigi.domain.quantities import format_bytes
from kigi.errors import SpecInvalid

if TYPE_CHECKING:
    from kigi.domain.layers import Digest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command("gc")
@click.option("--delete", is_flag=True, help="Delete; without it nothing is changed.")
@click.option("--grace", default="24h", show_default=True, help="Age below which nothing is deleted: 30m, 24h, 7d.")
@click.option(
    "--also",
    type=PATH,
    multiple=True,
    help="Kubeconfig of another cluster whose trees use this repository; may be repeated.",
)
@click.option("--keep-file", type=PATH, multiple=True, help="File of digests to keep, one per line; may be repeated.")
@click.option("--all-unused", is_flag=True, help="Delete even if no tree names any layer of the repository.")
@repository_options()
@output_option
@cluster_options(namespace=False)
def command(
    access: Access,
    delete: bool,
    grace: str,
    also: tuple[Path, ...],
    keep_file: tuple[Path, ...],
    all_unused: bool,
    repository: RepositoryChoice,
    form: Format,
) -> None:
    """List or delete the layers that no tree names.

    Unfinished uploads of layers are listed or given up as well. Reads the trees of all namespaces.
    """
    import asyncio

    sources, age = Sources(access, also, keep_file), parse_age(grace)
    with report(form) as done:
        asyncio.run(_collect(sources, repository, age, done, delete=delete, all_unused=all_unused, form=form))


def parse_age(text: str) -> timedelta:
    """``30m``, ``24h``, ``7d``, ``90s``; raises OptionInvalid."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise OptionInvalid(f"--grace: {text!r} is no age; write 30m, 24h or 7d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


async def _collect(
    sources: Sources,
    repository: RepositoryChoice,
    grace: timedelta,
    done: dict[str, Any],
    *,
    delete: bool,
    all_unused: bool,
    form: Format,
) -> None:
    """Puts what was found, and then what was deleted, into ``done``; raises KigiError."""
    from kigi.adapters.s3 import open_repository
    from kigi.cli.collection import check_unnamed, delete_garbage, find_garbage

    sources.check()
    async with open_repository(repository.load(sources.access)) as store:

        async def read_named() -> set[Digest]:
            return await read_named_layers(store, sources)

        found = await find_garbage(store, read_named, grace)
        done.update(_data(found))
        if form is Format.TABLE:
            _print(found, delete)
        if not delete or not (found.layers or found.uploads):
            return
        if found.layers and not found.named and not all_unused:
            raise SpecInvalid(
                f"no tree that was read names any of the {_objects(found)} layers of the repository: is this its "
                "cluster? Name another one with --also, or confirm with --all-unused"
            )
        with progress_bars() as bars:
            advance = bars.add("layers deleted", len(found.layers), items=True)
            await delete_garbage(store, found, read_named, done, advance)
        if form is Format.TABLE:
            print(
                f"deleted {len(done['deleted'])} layers, {format_bytes(done['freedBytes'])}; gave up "
                f"{done['uploadsGivenUp']} unfinished uploads"
            )
        if done["deleted"]:
            await check_unnamed(store, done["deleted"], read_named)


def _objects(found: Collection) -> int:
    return len(found.layers) + found.named + found.young + found.foreign


def _data(found: Collection) -> dict[str, Any]:
    """The result as JSON before anything is deleted."""
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
        "deleted": [],
        "freedBytes": 0,
    }


def _print(found: Collection, delete: bool) -> None:
    for item in found.layers:
        print(f"{item.key.rpartition('/')[2]}  {item.size_bytes:>14}  {item.modified:%Y-%m-%d %H:%M}")
    for upload in found.uploads:
        print(f"{upload.key.rpartition('/')[2]}  unfinished since {upload.started:%Y-%m-%d %H:%M}")
    print(
        f"{len(found.layers)} layers that no tree names, {found.size_bytes} bytes ({format_bytes(found.size_bytes)}), "
        f"and {len(found.uploads)} unfinished uploads; kept: {found.named} named, "
        f"{found.young} younger than the grace period, {found.foreign} other objects"
    )
    if not delete and (found.layers or found.uploads):
        print("nothing was deleted; --delete does it")
