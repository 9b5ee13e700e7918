"""Verbs that store images: publish, publish-tree; their work is imported when called."""

from __future__ import annotations

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

_Endpoint = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="URL of the S3 server, in place of the settings'."),
]
_Bucket = Annotated[Optional[str], typer.Option(help="Bucket, in place of the settings'.")]  # noqa: UP045


def register(app: typer.Typer) -> None:
    """Adds the verbs to ``app``."""
    for verb in (publish, publish_tree):
        app.command()(verb)


def publish(
    file: Annotated[Path, typer.Argument(help="qcow2 (with its backing files, if it has some), raw or vmdk image.")],
    name: Annotated[str, typer.Option(help="Name of the VMImageNode.")],
    parent: Annotated[Optional[str], typer.Option(help="VMImageNode that it is the difference to.")] = None,  # noqa: UP045
    parent_digest: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Digest of the parent's layer; without it the API server is asked."),
    ] = None,
    image_format: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--format", help="qcow2, raw or vmdk; default: as the file begins."),
    ] = None,
    description: Annotated[Optional[str], typer.Option(help="Free text.")] = None,  # noqa: UP045
    os: Annotated[Optional[str], typer.Option(help="Operating system, free text.")] = None,  # noqa: UP045
    repository: Repository = "default",
    apply: Apply = False,
    levels: Annotated[
        bool,
        typer.Option(
            "--levels/--flat",
            help="Each backing file as an image of its own (the root is NAME-level0), or one image.",
        ),
    ] = False,
    backing_dir: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Folder, beside the image's own, whose files may be read as backing files."),
    ] = None,
    layers_dir: Layers = None,
    repositories: Settings = None,
    endpoint: _Endpoint = None,
    bucket: _Bucket = None,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Store a disk image as one layer and name it by a VMImageNode."""
    from kigi.cli.publish import PublishOptions, StoreOptions, run_publish

    run_publish(
        PublishOptions(
            file=file,
            name=name,
            parent=parent,
            parent_digest=parent_digest,
            image_format=image_format,
            description=description,
            os=os,
            access=access_of(kubeconfig, context, namespace),
            apply=apply,
            levels=levels,
            backing_dirs=tuple(backing_dir or ()),
            layers_dir=layers_dir,
            store=StoreOptions(repositories, repository, endpoint, bucket),
            form=output,
        )
    )


def publish_tree(
    folder: Annotated[Path, typer.Argument(help="Folder with manifest.json and the images that it names.")],
    apply: Apply = False,
    layers_dir: Layers = None,
    repositories: Settings = None,
    endpoint: _Endpoint = None,
    bucket: _Bucket = None,
    output: Done = Format.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Store every image of a folder, parents first, and name each by a VMImageNode."""
    from kigi.cli.publish import StoreOptions, run_publish_tree

    store = StoreOptions(repositories, "default", endpoint, bucket)
    access = access_of(kubeconfig, context, namespace)
    run_publish_tree(folder, access=access, apply=apply, layers_dir=layers_dir, store=store, form=output)
