"""Options that several verbs have, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kigi.cli.commands import Option
from kigi.cli.output import Format

if TYPE_CHECKING:
    from kigi.cli.cluster import Access

Namespace = Annotated[
    str | None,
    Option(
        "Namespace; default: that of the kubeconfig's context.",
        (
            "--namespace",
            "-n",
        ),
    ),
]
Context = Annotated[str | None, Option("Context of the kubeconfig.")]
Kubeconfig = Annotated[str | None, Option("Kubeconfig file.")]
Form = Annotated[
    Format,
    Option(
        "Tables for people, json or yaml for programs.",
        (
            "--output",
            "-o",
        ),
    ),
]
Done = Annotated[
    Format,
    Option(
        "json or yaml: print what was done, for programs.",
        (
            "--output",
            "-o",
        ),
    ),
]
Apply = Annotated[bool, Option("Apply the VMImageNode, or print it as YAML.", ("--apply/--print",))]
Layers = Annotated[Path | None, Option("Folder of layers that are kept here; default: the user's cache.")]
Settings = Annotated[
    Path | None,
    Option("repositories.yaml; or KIGI_S3_ENDPOINT and KIGI_S3_BUCKET in the environment.", ("--repositories",)),
]
Repository = Annotated[str, Option("Repository, as in repositories.yaml.")]


def access_of(
    kubeconfig: str | None, context: str | None, namespace: str | None = None, *, all_namespaces: bool = False
) -> Access:
    """Which cluster and namespace the options name."""
    from kigi.cli.cluster import Access

    return Access(kubeconfig, context, namespace, all_namespaces)
