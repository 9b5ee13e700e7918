"""``kigi version``: versions of this program and, where the cluster can be read, of the operator and the daemons."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import Access, open_cluster
from kigi.cli.cluster import kigi_namespace as find_namespace
from kigi.cli.options import cluster_options, kigi_namespace_option, output_option
from kigi.cli.output import Format, print_data, print_message, table
from kigi.domain.names import ANNOTATION_VERSION, OPERATOR_LEASE
from kigi.domain.versions import version_skew
from kigi.errors import Forbidden, KigiError
from kigi.extras import DISTRIBUTION

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kigi.adapters.kubernetes.session import KubeSession

TIMEOUT_S = 5.0
"""For each answer of the API server."""


@click.command("version")
@click.option("--client", is_flag=True, help="Print only the version of this program; ask no cluster.")
@kigi_namespace_option
@output_option
@cluster_options(namespace=False)
def command(access: Access, client: bool, kigi_namespace: str | None, form: Format) -> None:
    """Print the versions of kigi, operator and daemons.

    Operator and daemons are left out, with a note, if the cluster cannot be read. A daemon whose version is too far
    from the operator's has the remedy beside it.
    """
    from importlib.metadata import version

    own = {"version": version(DISTRIBUTION), "platform": sys.platform}
    data: dict[str, Any] = {"client": own, "operator": None, "nodes": []}
    if client and form is Format.TABLE:
        print(data["client"]["version"])
        return
    if not client:
        try:
            data |= _read(access, kigi_namespace)
        except KigiError as exc:
            print_message(f"only the version of this program: {exc}")
    print_data(data, lambda: _render(data), form)


def _read(access: Access, namespace: str | None) -> dict[str, Any]:
    """``operator`` and ``nodes`` as the NodeCaches and the operator's Lease report them; raises KigiError."""
    from kigi.adapters.kubernetes.resources import NODE_CACHE

    with open_cluster(access, timeout_s=TIMEOUT_S) as kube:
        caches = sorted(kube.list_all(NODE_CACHE), key=lambda body: str(body["metadata"]["name"]))
        return versions_of(caches, _leading(kube, find_namespace(kube, namespace)))


def _leading(kube: KubeSession, namespace: str) -> str | None:
    """Version in the Lease of the leading operator; None if it cannot be read."""
    from kigi.adapters.kubernetes.resources import LEASE

    try:
        lease = kube.get(LEASE, namespace, OPERATOR_LEASE) or {"metadata": {}}
    except Forbidden:
        return None
    return (lease["metadata"].get("annotations") or {}).get(ANNOTATION_VERSION)


def versions_of(caches: list[dict[str, Any]], leading: str | None = None) -> dict[str, Any]:
    """The operator's version and protocol and the version of each node's daemon; None if not reported.

    ``leading``: version in the operator's Lease; without it, the one that the operator has written into the NodeCaches.
    """
    written = (str(version) for body in caches if (version := (body.get("spec") or {}).get("operatorVersion")))
    operator = leading or max(written, default=None)
    protocols = [(body.get("spec") or {}).get("operatorProtocol") for body in caches]
    nodes = []
    for body in caches:
        known = (body.get("status") or {}).get("daemon") or {}
        name, version = body["metadata"]["name"], known.get("version")
        nodes.append({"name": name, "version": version, "skew": version_skew(name, version or "", operator or "")})
    newest = max(filter(None, protocols), default=None)
    is_known = operator is not None or newest is not None
    return {"operator": {"version": operator, "protocol": newest} if is_known else None, "nodes": nodes}


def _render(data: dict[str, Any]) -> RenderableType:
    rows: list[tuple[Any, ...]] = [("kigi", data["client"]["version"], data["client"]["platform"])]
    if data["operator"] is not None:
        protocol = data["operator"]["protocol"]
        rows.append(("operator", data["operator"]["version"], f"protocol {protocol}" if protocol else ""))
    rows += [("daemon", node["version"], node["name"], node["skew"]) for node in data["nodes"]]
    return table(("PROGRAM", "VERSION", "WHERE", "REMEDY"), [(*row, "")[:4] for row in rows])
