"""Options that several verbs have, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from kigi.cli.output import Format

if TYPE_CHECKING:
    from kigi.cli.cluster import Access

Namespace = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--namespace", "-n", help="Namespace; default: that of the kubeconfig's context."),
]
Context = Annotated[Optional[str], typer.Option(help="Context of the kubeconfig.")]  # noqa: UP045
Kubeconfig = Annotated[Optional[str], typer.Option(help="Kubeconfig file.")]  # noqa: UP045
Form = Annotated[Format, typer.Option("--output", "-o", help="Tables for people, json or yaml for programs.")]
Done = Annotated[Format, typer.Option("--output", "-o", help="json or yaml: print what was done, for programs.")]
Apply = Annotated[bool, typer.Option("--apply/--print", help="Apply the VMImageNode, or print it as YAML.")]
Layers = Annotated[
    Optional[Path], typer.Option(help="Folder of layers that are kept here; default: the user's cache.")  # noqa: UP045
]
Settings = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--repositories", help="repositories.yaml; or KIGI_S3_ENDPOINT and KIGI_S3_BUCKET in the environment."
    ),
]
Repository = Annotated[str, typer.Option(help="Repository, as in repositories.yaml.")]


def access_of(
    kubeconfig: str | None, context: str | None, namespace: str | None = None, *, all_namespaces: bool = False
) -> Access:
    """Which cluster and namespace the options name."""
    from kigi.cli.cluster import Access

    return Access(kubeconfig, context, namespace, all_namespaces)
