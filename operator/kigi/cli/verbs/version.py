"""``kigi version``: versions of this program and, where the cluster can be read, of the operator and the daemons."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import Access, open_cluster
from kigi.cli.options import cluster_options, output_option
from kigi.cli.output import Format, print_data, print_message, table
from kigi.errors import KigiError
from kigi.extras import DISTRIBUTION

if TYPE_CHECKING:
    from rich.console import RenderableType

TIMEOUT_S = 5.0
"""For each answer of the API server."""


@click.command("version")
@click.option("--client", is_flag=True, help="Print only the version of this program; ask no cluster.")
@output_option
@cluster_options(namespace=False)
def command(access: Access, client: bool, form: Format) -> None:
    """Print the versions of kigi, operator and daemons.

    Operator and daemons are left out, with a note, if the cluster cannot be read.
    """
    from importlib.metadata import version

    own = {"version": version(DISTRIBUTION), "platform": sys.platform}
    data: dict[str, Any] = {"client": own, "operator": None, "nodes": []}
    if client and form is Format.TABLE:
        print(data["client"]["version"])
        return
    if not client:
        try:
            data |= _read(access)
        except KigiError as exc:
            print_message(f"only the version of this program: {exc}")
    print_data(data, lambda: _render(data), form)


def _read(access: Access) -> dict[str, Any]:
    """``operator`` and ``nodes`` as the NodeCaches report them; raises KigiError."""
    from kigi.adapters.kubernetes.resources import NODE_CACHE

    with open_cluster(access, timeout_s=TIMEOUT_S) as kube:
        caches = sorted(kube.list_all(NODE_CACHE), key=lambda body: str(body["metadata"]["name"]))
    return versions_of(caches)


def versions_of(caches: list[dict[str, Any]]) -> dict[str, Any]:
    """The operator's protocol and the version of each node's daemon; None if not reported."""
    protocols = [(body.get("spec") or {}).get("operatorProtocol") for body in caches]
    nodes = []
    for body in caches:
        known = (body.get("status") or {}).get("daemon") or {}
        nodes.append({"name": body["metadata"]["name"], "version": known.get("version")})
    newest = max(filter(None, protocols), default=None)
    return {"operator": {"version": None, "protocol": newest} if newest else None, "nodes": nodes}


def _render(data: dict[str, Any]) -> RenderableType:
    rows = [("kigi", data["client"]["version"], data["client"]["platform"])]
    if data["operator"] is not None:
        rows.append(("operator", data["operator"]["version"], f"protocol {data['operator']['protocol']}"))
    rows += [("daemon", node["version"], node["name"]) for node in data["nodes"]]
    return table(("PROGRAM", "VERSION", "WHERE"), rows)
