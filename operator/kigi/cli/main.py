"""``kigi`` and ``kubectl kigi``: one file per verb, imported when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from kigi.cli.upkeep import register as register_upkeep
from kigi.cli.verbs import register as register_verbs
from kigi.errors import KigiError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a plain help needs no rich: half the time to start
    help="Trees of VM images and of states of whole systems.",
)

_Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the VMImageNodes.")]
_Apply = Annotated[bool, typer.Option("--apply/--print", help="Apply the VMImageNode, or print it as YAML.")]
_Layers = Annotated[
    Optional[Path], typer.Option(help="Folder of layers that are kept here; default: the user's cache.")  # noqa: UP045
]
_Settings = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--repositories", help="repositories.yaml; or KIGI_S3_ENDPOINT and KIGI_S3_BUCKET in the environment."
    ),
]
_Endpoint = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="URL of the S3 server, in place of the settings'."),
]
_Bucket = Annotated[Optional[str], typer.Option(help="Bucket, in place of the settings'.")]  # noqa: UP045


@app.command()
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
    repository: Annotated[str, typer.Option(help="Repository, as in repositories.yaml.")] = "default",
    namespace: _Namespace = "default",
    apply: _Apply = False,
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
    layers_dir: _Layers = None,
    repositories: _Settings = None,
    endpoint: _Endpoint = None,
    bucket: _Bucket = None,
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
            namespace=namespace,
            apply=apply,
            levels=levels,
            backing_dirs=tuple(backing_dir or ()),
            layers_dir=layers_dir,
            store=StoreOptions(repositories, repository, endpoint, bucket),
        )
    )


@app.command()
def publish_tree(
    folder: Annotated[Path, typer.Argument(help="Folder with manifest.json and the images that it names.")],
    namespace: _Namespace = "default",
    apply: _Apply = False,
    layers_dir: _Layers = None,
    repositories: _Settings = None,
    endpoint: _Endpoint = None,
    bucket: _Bucket = None,
) -> None:
    """Store every image of a folder, parents first, and name each by a VMImageNode."""
    from kigi.cli.publish import StoreOptions, run_publish_tree

    store = StoreOptions(repositories, "default", endpoint, bucket)
    run_publish_tree(folder, namespace=namespace, apply=apply, layers_dir=layers_dir, store=store)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("kigi"))


register_verbs(app)
register_upkeep(app)


def main() -> None:
    """Run; what went wrong on purpose is one line on stderr and exit code 1."""
    try:
        app()
    except KigiError as exc:
        print(f"kigi: {exc.reason}: {exc}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
