"""Verbs that look after the trees: delete, flatten, gc, export, import; their work is imported when called."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import click

from kigi.cli.commands import Argument, Option
from kigi.cli.options import (
    Apply,
    Context,
    Done,
    Kubeconfig,
    Layers,
    Namespace,
    Repository,
    Settings,
    access_of,
)
from kigi.cli.output import Format


class NodeKind(StrEnum):
    """A node of one of the trees."""

    IMAGE = "image"
    STATE = "state"


def delete(
    kind: Annotated[NodeKind, Argument("image (VMImageNode) or state (SystemNode).")],
    name: Annotated[str, Argument("Name of the node.")],
    dry_run: Annotated[bool, Option("Say how many bytes it frees; delete nothing.", ("--dry-run",))] = False,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete a node of a tree; refused at once, with the list, while something uses it."""
    from kigi.cli.verbs.delete import run_delete

    run_delete(access_of(kubeconfig, context, namespace), kind.value, name, dry_run=dry_run, form=output)


def flatten(
    image: Annotated[str, Argument("VMImageNode whose chain shall be shorter.")],
    name: Annotated[str, Option("Name of the new VMImageNode.")],
    parent: Annotated[
        str | None,
        Option("Ancestor that the new image stands on; default: none, the new image is a root."),
    ] = None,
    apply: Apply = False,
    layers_dir: Layers = None,
    repositories: Settings = None,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make an equal image with a shorter chain; published only when both show a guest the same bytes."""
    from kigi.cli.verbs.flatten import run_flatten

    run_flatten(
        image,
        name,
        access=access_of(kubeconfig, context, namespace),
        parent=parent,
        apply=apply,
        layers_dir=layers_dir,
        settings=repositories,
        form=output,
    )


def gc(
    delete: Annotated[bool, Option("Delete; without it nothing is changed.", ("--delete",))] = False,
    grace: Annotated[str, Option("Age below which nothing is deleted: 30m, 24h, 7d.")] = "24h",
    also: Annotated[
        list[Path] | None,
        Option("Kubeconfig of another cluster whose trees use this repository; may be repeated."),
    ] = None,
    keep_file: Annotated[
        list[Path] | None,
        Option("File of digests that are kept, one a line; may be repeated."),
    ] = None,
    all_unused: Annotated[
        bool, Option("Delete also when no tree names any layer of the repository.", ("--all-unused",))
    ] = False,
    repository: Repository = "default",
    repositories: Settings = None,
    output: Done = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List, or delete, the layers of a repository that no tree names, and uploads that were given up."""
    from kigi.cli.verbs.gc import run_gc

    run_gc(
        access_of(kubeconfig, context),
        delete=delete,
        grace=grace,
        clusters=tuple(also or ()),
        keep_files=tuple(keep_file or ()),
        all_unused=all_unused,
        repository=repository,
        settings=repositories,
        form=output,
    )


def export_tree(
    node: Annotated[
        str | None,
        Argument("SystemNode or VMImageNode; state/NAME or image/NAME where both have the name."),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "File to write.",
            (
                "--output",
                "-o",
            ),
        ),
    ] = None,
    have: Annotated[
        Path | None,
        Option("What 'kigi export --list-have' says at the other site: these layers are left out."),
    ] = None,
    children: Annotated[bool, Option("Also all that stands on the node.", ("--children",))] = False,
    list_have: Annotated[
        bool, Option("Print the digests that the repository has, and nothing else.", ("--list-have",))
    ] = False,
    repository: Repository = "default",
    repositories: Settings = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Write a state or an image, with all that it stands on, into one file for another site."""
    from kigi.cli.verbs.export import run_export, run_list_have

    if list_have:
        run_list_have(repository, repositories)
    elif node is None or output is None:
        raise click.BadParameter("name a node and a file: kigi export NODE -o FILE")
    else:
        access = access_of(kubeconfig, context, namespace)
        run_export(access, node, output, have=have, children=children, settings=repositories)


def import_tree(
    file: Annotated[Path, Argument("File that 'kigi export' wrote.")],
    layers_dir: Layers = None,
    repository: Repository = "default",
    repositories: Settings = None,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Store the layers of an exported subtree and create its images and states; safe to call again."""
    from kigi.cli.verbs.import_ import run_import

    access = access_of(kubeconfig, context, namespace)
    run_import(file, access, layers_dir=layers_dir, repository=repository, settings=repositories, form=output)


VERBS = (delete, flatten, gc, export_tree, import_tree)
