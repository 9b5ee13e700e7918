"""Names of objects for the shell's completion."""

from __future__ import annotations

import click

from kigi.adapters.kubernetes.resources import DEPLOYMENT, SYSTEM, Resource
from kigi.cli.cluster import Access, open_cluster
from kigi.errors import KigiError

TIMEOUT_S = 2.0
"""For each answer of the API server; after it the shell gets no names."""


def complete_deployments(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of SystemDeployments that begin with ``incomplete``."""
    return _names(DEPLOYMENT, ctx, incomplete)


def complete_states(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of SystemNodes that begin with ``incomplete``."""
    return _names(SYSTEM, ctx, incomplete)


def _names(resource: Resource, ctx: click.Context, incomplete: str) -> list[str]:
    """In the namespace that the line names so far; none if the cluster cannot be read.

    An error would be printed in the middle of the user's line.
    """
    options = ctx.params
    access = Access(options.get("kubeconfig"), options.get("context"), options.get("namespace"))
    try:
        with open_cluster(access, timeout_s=TIMEOUT_S) as kube:
            names = [body["metadata"]["name"] for body in kube.list_all(resource, access.default_namespace())]
    except (KigiError, OSError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))
