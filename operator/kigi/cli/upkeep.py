"""Verbs that look after the trees: delete, flatten, gc, export, import; their work is imported when called."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

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


def register(app: typer.Typer) -> None:
    """Adds the verbs to ``app``."""
    app.command()(delete)
    app.command()(flatten)
    app.command()(gc)
    app.command("export")(export_tree)
    app.command("import")(import_tree)


def delete(
    kind: Annotated[NodeKind, typer.Argument(help="image (VMImageNode) or state (SystemNode).")],
    name: Annotated[str, typer.Argument(help="Name of the node.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many bytes it frees; delete nothing.")] = False,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete a node of a tree; refused at once, with the list, while something uses it."""
    from kigi.cli.delete import run_delete

    run_delete(access_of(kubeconfig, context, namespace), kind.value, name, dry_run=dry_run, form=output)


def flatten(
    image: Annotated[str, typer.Argument(help="VMImageNode whose chain shall be shorter.")],
    name: Annotated[str, typer.Option(help="Name of the new VMImageNode.")],
    parent: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Ancestor that the new image stands on; default: none, the new image is a root."),
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
    from kigi.cli.flatten import run_flatten

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
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it nothing is changed.")] = False,
    grace: Annotated[str, typer.Option(help="Age below which nothing is deleted: 30m, 24h, 7d.")] = "24h",
    also: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Kubeconfig of another cluster whose trees use this repository; may be repeated."),
    ] = None,
    keep_file: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="File of digests that are kept, one a line; may be repeated."),
    ] = None,
    all_unused: Annotated[
        bool, typer.Option("--all-unused", help="Delete also when no tree names any layer of the repository.")
    ] = False,
    repository: Repository = "default",
    repositories: Settings = None,
    output: Done = Format.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List, or delete, the layers of a repository that no tree names, and uploads that were given up."""
    from kigi.cli.gc import run_gc

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
        Optional[str],  # noqa: UP045
        typer.Argument(help="SystemNode or VMImageNode; state/NAME or image/NAME where both have the name."),
    ] = None,
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="File to write.")] = None,  # noqa: UP045
    have: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="What 'kigi export --list-have' says at the other site: these layers are left out."),
    ] = None,
    children: Annotated[bool, typer.Option("--children", help="Also all that stands on the node.")] = False,
    list_have: Annotated[
        bool, typer.Option("--list-have", help="Print the digests that the repository has, and nothing else.")
    ] = False,
    repository: Repository = "default",
    repositories: Settings = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Write a state or an image, with all that it stands on, into one file for another site."""
    from kigi.cli.export import run_export, run_list_have

    if list_have:
        run_list_have(repository, repositories)
    elif node is None or output is None:
        raise typer.BadParameter("name a node and a file: kigi export NODE -o FILE")
    else:
        access = access_of(kubeconfig, context, namespace)
        run_export(access, node, output, have=have, children=children, settings=repositories)


def import_tree(
    file: Annotated[Path, typer.Argument(help="File that 'kigi export' wrote.")],
    layers_dir: Layers = None,
    repository: Repository = "default",
    repositories: Settings = None,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Store the layers of an exported subtree and create its images and states; safe to call again."""
    from kigi.cli.importing import run_import

    access = access_of(kubeconfig, context, namespace)
    run_import(file, access, layers_dir=layers_dir, repository=repository, settings=repositories, form=output)
