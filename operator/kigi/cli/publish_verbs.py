"""Verbs that store images: publish, publish-tree; their work is imported when called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

_Endpoint = Annotated[
    str | None,
    Option("URL of the S3 server, in place of the settings'."),
]
_Bucket = Annotated[str | None, Option("Bucket, in place of the settings'.")]


def publish(
    file: Annotated[Path, Argument("qcow2 (with its backing files, if it has some), raw or vmdk image.")],
    name: Annotated[str, Option("Name of the VMImageNode.")],
    parent: Annotated[str | None, Option("VMImageNode that it is the difference to.")] = None,
    parent_digest: Annotated[
        str | None,
        Option("Digest of the parent's layer; without it the API server is asked."),
    ] = None,
    image_format: Annotated[
        str | None,
        Option("qcow2, raw or vmdk; default: as the file begins.", ("--format",)),
    ] = None,
    description: Annotated[str | None, Option("Free text.")] = None,
    os: Annotated[str | None, Option("Operating system, free text.")] = None,
    repository: Repository = "default",
    apply: Apply = False,
    levels: Annotated[
        bool,
        Option(
            "Each backing file as an image of its own (the root is NAME-level0), or one image.", ("--levels/--flat",)
        ),
    ] = False,
    backing_dir: Annotated[
        list[Path] | None,
        Option("Folder, beside the image's own, whose files may be read as backing files."),
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
    from kigi.cli.verbs.publish import PublishOptions, StoreOptions, run_publish

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
    folder: Annotated[Path, Argument("Folder with manifest.json and the images that it names.")],
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
    from kigi.cli.verbs.publish import StoreOptions, run_publish_tree

    store = StoreOptions(repositories, "default", endpoint, bucket)
    access = access_of(kubeconfig, context, namespace)
    run_publish_tree(folder, access=access, apply=apply, layers_dir=layers_dir, store=store, form=output)


VERBS = (publish, publish_tree)
