"""``kigi plan``: what a deployment, a switch or a prefetch would move and restart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import DEPLOYMENT
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.completion import complete_states
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.options import PATH, cluster_options, optional_deployment_argument, rows_option
from kigi.cli.output import Format, Rows, print_data, table
from kigi.domain.quantities import format_bytes
from kigi.domain.tree_names import ref_to
from kigi.errors import DeploymentMissing, SpecInvalid

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Plan = dict[str, Any]
"""The plan of one object, as ``kigi plan -o json`` prints it."""
COLUMNS = (
    *("namespace", "deployment", "instance", "name"),
    *("node", "system", "action", "missingLayers", "missingBytes"),
)


@click.command("plan")
@optional_deployment_argument
@click.option("--file", "-f", type=PATH, help="Objects as YAML that are not applied yet.")
@click.option("--system", help="Plan a switch to this state.", shell_complete=complete_states)
@rows_option
@cluster_options()
def command(access: Access, deployment: str | None, file: Path | None, system: str | None, form: Format) -> None:
    """Show what a change would move and restart; change nothing.

    For a deployment, a switch or a prefetch: the layers that each node lacks, the free space of its cache afterwards,
    and what happens to each machine.

    \b
    DEPLOYMENT: SystemDeployment; or name a file with -f.
    """
    from kigi.cli.change_plan import plan_documents
    from kigi.cli.plan_mirror import read_plan_mirror

    if (deployment is None) == (file is None):
        raise OptionInvalid("name a deployment, or a file with -f")
    namespace = access.default_namespace()
    with open_cluster(access) as kube:
        now = datetime.now(UTC)
        mirror = read_plan_mirror(kube, now)
        if deployment is not None:
            body = kube.get(DEPLOYMENT, namespace, deployment)
            if body is None:
                raise DeploymentMissing(f"there is no SystemDeployment {namespace}/{deployment}")
            documents = [body]
        else:
            assert file is not None
            documents = load(file)
    for document in documents:
        if system is not None and document.get("kind") == DEPLOYMENT.kind:
            document["spec"]["systemRef"] = ref_to(system)
    plans = plan_documents(mirror, documents, namespace, now)
    print_data(plans, lambda: _render(plans), form, rows=lambda: Rows(COLUMNS, _rows(plans)))


def load(file: Path) -> list[dict[str, Any]]:
    """Every object of a YAML file; raises SpecInvalid."""
    import yaml

    try:
        documents = [document for document in yaml.safe_load_all(file.read_text()) if document]
    except (OSError, yaml.YAMLError) as exc:
        raise SpecInvalid(f"{file}: {exc}") from exc
    for document in documents:
        if not isinstance(document, dict) or not (document.get("metadata") or {}).get("name"):
            raise SpecInvalid(f"{file}: an object without kind or metadata.name")
    return documents


def _rows(plans: list[Plan]) -> Iterator[dict[str, Any]]:
    """The machines of all plans, each with its deployment."""
    for plan in plans:
        where = {"namespace": plan["namespace"], "deployment": plan["name"]}
        yield from ({**where, **machine} for machine in plan["machines"])


def _render(plans: list[Plan]) -> RenderableType:
    from rich.console import Group

    return Group(*(part for plan in plans for part in _parts(plan)))


def _parts(plan: Plan) -> Iterator[RenderableType]:
    from rich.markup import escape
    from rich.text import Text

    missing, total = plan.get("missingBytes", 0), plan.get("totalBytes", 0)
    saved = f", {100 * plan.get('savedRatio', 0):.2f} % less" if total else ""
    yield (
        f"[bold]{escape(plan['namespace'])}/{escape(plan['name'])}[/bold]  {escape(str(plan['system']))}: "
        f"moves {format_bytes(missing)} instead of {format_bytes(total)}{saved}"
    )
    if plan["problem"]:
        yield Text(plan["problem"], "red")
    yield _nodes_table(plan["nodes"])
    if plan["machines"]:
        yield ""
        yield _machines_table(plan["machines"])


def _nodes_table(nodes: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    rows = (
        (
            node["name"],
            node["machines"],
            node["missingLayers"],
            format_bytes(node["missingBytes"]),
            format_bytes(node["prefetchBytes"]),
            format_bytes(node["freeAfterBytes"]) if node["freeAfterBytes"] >= 0 else Text("does not fit", "red"),
        )
        for node in nodes
    )
    return table(("NODE", "MACHINES#", "LAYERS#", "MISSING#", "PREFETCH#", "FREE AFTER#"), rows)


def _machines_table(machines: list[dict[str, Any]]) -> Table:
    rows = (
        (
            machine["instance"],
            machine["name"],
            machine["node"],
            machine.get("system"),
            machine["missingLayers"],
            format_bytes(machine["missingBytes"]),
            machine["action"],
        )
        for machine in machines
    )
    return table(("INSTANCE#", "MACHINE", "NODE", "SYSTEM", "LAYERS#", "MISSING#", "ACTION"), rows)
