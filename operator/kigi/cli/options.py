"""Options that several verbs share, as decorators for click commands."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from kigi.cli.cluster import Access
from kigi.cli.completion import complete_deployments
from kigi.cli.output import Format
from kigi.cli.repositories import RepositoryChoice

Function = Callable[..., None]
Decorator = Callable[[Function], Function]

PATH = click.Path(path_type=Path)
MAX_WAIT_S = 30 * 86_400.0
"""A month: longer than anything takes, and short enough for every clock."""


def cluster_options(*, namespace: bool = True, all_namespaces: bool = False) -> Decorator:
    """Adds ``-n``, ``-A``, ``--context`` and ``--kubeconfig``; the function gets one ``access``."""
    options = [
        click.option("--context", help="Context of the kubeconfig."),
        click.option("--kubeconfig", help="Kubeconfig file."),
    ]
    if all_namespaces:
        options.insert(0, click.option("--all-namespaces", "-A", is_flag=True, help="All namespaces."))
    if namespace:
        text = "Namespace; default: that of the kubeconfig's context."
        options.insert(0, click.option("--namespace", "-n", help=text, callback=_checked_namespace))

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(
            *,
            kubeconfig: str | None,
            context: str | None,
            namespace: str | None = None,
            all_namespaces: bool = False,
            **values: Any,
        ) -> None:
            function(access=Access(kubeconfig, context, namespace, all_namespaces), **values)

        return _with(options, call)

    return decorate


def repository_options(*, name: bool = True) -> Decorator:
    """Adds ``--repository`` (``name``), ``--endpoint`` and ``--bucket``; the function gets one RepositoryChoice.

    ``name`` False: each image names its repository.
    """
    options = []
    if name:
        text = "LayerRepository of the cluster; default: that of the namespace."
        options.append(click.option("--repository", "name_of_it", help=text))
    text = "URL of the S3 server, in place of the LayerRepository's; default: KIGI_S3_ENDPOINT."
    options.append(click.option("--endpoint", help=text))
    options.append(click.option("--bucket", help="Bucket, in place of the LayerRepository's; default: KIGI_S3_BUCKET."))

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(
            *,
            name_of_it: str | None = None,
            endpoint: str | None = None,
            bucket: str | None = None,
            **values: Any,
        ) -> None:
            function(repository=RepositoryChoice(name_of_it, endpoint, bucket), **values)

        return _with(options, call)

    return decorate


def _checked_namespace(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The API server would list nothing for a name that cannot exist."""
    if value is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise click.BadParameter(f"{value!r} is no name of a namespace: lower-case letters, digits and '-'")
    return value


def _with(options: Sequence[Decorator], function: Function) -> Function:
    """The function with these options, in this order in its help."""
    for option in reversed(options):
        function = option(function)
    return function


def format_option(*more: Format, text: str) -> Decorator:
    """Adds ``-o`` with the formats table, json, yaml and ``more``; the function gets ``form``."""
    return click.option(
        "--output",
        "-o",
        "form",
        type=click.Choice([form.value for form in Format if form in (*_ALWAYS, *more)]),
        default=Format.TABLE.value,
        show_default=True,
        callback=lambda ctx, param, value: Format(value),
        help=text,
    )


_ALWAYS = (Format.TABLE, Format.JSON, Format.YAML)

output_option = format_option(text="Tables for people, json or yaml for programs.")
"""``form``: how a verb prints what it read."""
rows_option = format_option(Format.CSV, text="Tables for people; json, yaml or csv for programs.")
"""``form``: how a verb prints rows that are no objects."""
listing_option = format_option(
    Format.WIDE, Format.NAME, Format.CSV, text="Tables for people, wide with more columns; the others for programs."
)
"""``form``: how a verb prints objects."""
result_option = format_option(Format.NAME, text="name, json or yaml: print what was done, for programs.")
"""``form``: whether a verb also prints what it did as data."""

deployment_argument = click.argument("deployment", shell_complete=complete_deployments)
optional_deployment_argument = click.argument("deployment", required=False, shell_complete=complete_deployments)


def number_of_seconds(value: float) -> float:
    """Refuses NaN, which no comparison of a range does."""
    if value != value:
        raise click.BadParameter("'nan' is no number of seconds, such as 60")
    return value


force_option = click.option(
    "--force/--no-force", help="Write the field even if a pipeline or a file keeps it and may set it back."
)
wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0, max=MAX_WAIT_S),
    default=0.0,
    callback=lambda ctx, param, value: number_of_seconds(value),
    help="Seconds to wait until it is Ready; default: do not wait.",
)
kigi_namespace_option = click.option(
    "--kigi-namespace", help="Namespace of the operator; default: KIGI_NAMESPACE, or found by its account."
)
apply_option = click.option("--apply/--print", help="Apply the VMImageNodes, or print them as YAML.")
layers_dir_option = click.option(
    "--layers-dir", type=PATH, help="Folder in which layers are kept; default: the user's cache."
)
