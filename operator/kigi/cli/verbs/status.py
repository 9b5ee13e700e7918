"""``kigi status``: all deployments in a table, or one with its conditions, machines and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import DEPLOYMENT
from kigi.cli.choice import Choice, Chosen, choice_options, find_chosen
from kigi.cli.cluster import Access, list_objects, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.options import cluster_options, listing_option, optional_deployment_argument
from kigi.cli.output import Format, Rows, object_name, print_data, table
from kigi.domain.quantities import format_bytes
from kigi.domain.tree_names import referred
from kigi.errors import Forbidden

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

HISTORY_ENTRIES = 5
"""Newest entries of the history that the screen of one deployment shows; ``-o wide`` shows all."""
COLUMNS = (
    *("namespace", "name", "system", "ready", "reason", "message"),
    *("instances", "readyInstances", "cachedPercent"),
)
MACHINE_COLUMNS = ("instance", "name", "state", "systemName", "revision", "nodeName", "message", "writtenBytes")
NOT_SEEN = {"status": "Unknown", "reason": "NotSeenYet", "message": ""}
COSTS = ("movedBytes", "missingBytes", "totalBytes")
"""Of the last change."""


@click.command("status")
@optional_deployment_argument
@choice_options
@click.option("--watch", "-w", is_flag=True, help="Show a grid of instances and machines until Ctrl-C.")
@listing_option
@cluster_options(all_namespaces=True)
def command(access: Access, deployment: str | None, choice: Choice, watch: bool, form: Format) -> None:
    """Show all deployments, or one with its machines and history.

    \b
    DEPLOYMENT: SystemDeployment.
    INSTANCES: only these, such as 7, 1-8,12 or red,blue; default: all.
    MACHINE: only these machines of the instances.
    """
    if watch:
        if deployment is None or form is not Format.TABLE:
            raise OptionInvalid("--watch: name a deployment, without -o")
        from kigi.cli.status_watch import watch_status

        watch_status(access, deployment, choice)
        return
    data = _read(access, deployment, choice)
    one, wide = deployment is not None, form is Format.WIDE
    print_data(
        data,
        lambda: _render_one(data[0], wide=wide) if one else _render_all(data, wide=wide),
        form,
        rows=lambda: Rows(MACHINE_COLUMNS, data[0]["machines"]) if one else Rows(COLUMNS, data),
        names=lambda: [object_name(DEPLOYMENT.kind, each["name"]) for each in data],
    )


def _read(access: Access, name: str | None, choice: Choice) -> list[dict[str, Any]]:
    with open_cluster(access) as kube:
        if name is not None:
            chosen = find_chosen(kube, access.default_namespace(), name, choice)
            if chosen.body is None and not chosen.instances:
                raise Forbidden(f"you may not read SystemDeployment {chosen.namespace}/{name}; name your instance")
            summary = _summary(chosen.body) if chosen.body is not None else _summary_of_instances(chosen)
            return [{**summary, **_details(chosen)}]
        found = list(list_objects(kube, DEPLOYMENT, access.scope()))
    return [_summary(body) for body in sorted(found, key=lambda b: (b["metadata"]["namespace"], b["metadata"]["name"]))]


def _summary(body: Mapping[str, Any]) -> dict[str, Any]:
    status, spec = body.get("status") or {}, body["spec"]
    ready = ready_condition(body)
    return {
        "namespace": body["metadata"]["namespace"],
        "name": body["metadata"]["name"],
        "system": referred(body["metadata"]["namespace"], spec["systemRef"]),
        "ready": ready["status"] == "True",
        "reason": ready["reason"],
        "message": ready.get("message", ""),
        "instances": len(spec["instances"]) if "instances" in spec else spec.get("replicas", 1),
        "readyInstances": status.get("readyReplicas", 0),
        "cachedPercent": (status.get("progress") or {}).get("percent"),
        "plan": status.get("plan") or {},
        "conditions": list(status.get("conditions") or ()),
    }


def _summary_of_instances(chosen: Chosen) -> dict[str, Any]:
    """For a caller who may read instances alone, such as a trainee."""
    verdicts = [ready_condition(body) for body in chosen.instances]
    worst = next((each for each in verdicts if each["status"] != "True"), verdicts[0])
    systems = dict.fromkeys((body.get("status") or {}).get("systemName") or "" for body in chosen.instances)
    return {
        "namespace": chosen.namespace,
        "name": chosen.deployment,
        "system": ", ".join(filter(None, systems)),
        "ready": worst["status"] == "True",
        "reason": worst["reason"],
        "message": worst.get("message", ""),
        "instances": len(verdicts),
        "readyInstances": sum(each["status"] == "True" for each in verdicts),
        "cachedPercent": None,
        "plan": {},
        "conditions": [],
    }


def ready_condition(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The condition Ready of an object, or one of the reason NotSeenYet."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == "Ready"), NOT_SEEN)


def _details(chosen: Chosen) -> dict[str, Any]:
    """Machines and history of the chosen instances."""
    machines: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    for body in chosen.instances:
        name, status = body["spec"]["name"], body.get("status") or {}
        for machine in status.get("machines") or ():
            if not chosen.machines or machine["name"] in chosen.machines:
                machines.append({"instance": name, "systemName": status.get("systemName"), **machine})
        history += [{"instance": name, **entry} for entry in status.get("history") or ()]
    return {"machines": machines, "history": sorted(history, key=lambda entry: str(entry["decisionTime"]))}


def _render_all(data: list[dict[str, Any]], *, wide: bool = False) -> RenderableType:
    from rich.text import Text

    if not data:
        return "no deployments"
    more = ("MOVED#", "MISSING#", "TOTAL#") if wide else ()
    columns = ("NAMESPACE", "NAME", "SYSTEM", "READY", "INSTANCES#", "CACHED#", *more, "STATE", "MESSAGE")
    return table(
        columns,
        (
            (
                one["namespace"],
                one["name"],
                one["system"],
                Text("yes", "green") if one["ready"] else Text("no", "red"),
                f"{one['readyInstances']}/{one['instances']}",
                f"{one['cachedPercent']}%" if one["cachedPercent"] is not None else "",
                *([_cost(one, field) for field in COSTS] if wide else ()),
                one["reason"],
                one["message"],
            )
            for one in data
        ),
    )


def _cost(one: dict[str, Any], field: str) -> str:
    return format_bytes(one["plan"].get(field, 0)) if one["plan"] else ""


def _render_one(data: dict[str, Any], *, wide: bool = False) -> RenderableType:
    from rich.console import Group

    cost = ""
    if data["plan"]:
        moved, missing, total = (_cost(data, field) for field in COSTS)
        cost = f"last change: {moved} of {missing} moved, instead of {total}"
    return Group(
        f"[bold]{data['namespace']}/{data['name']}[/bold]  {data['system']}  "
        f"{data['readyInstances']}/{data['instances']} instances ready",
        cost,
        _conditions_table(data["conditions"]),
        "",
        _machines_table(data["machines"]),
        "",
        *(_history_line(entry) for entry in data["history"][0 if wide else -HISTORY_ENTRIES :]),
    )


def _conditions_table(conditions: Sequence[dict[str, Any]]) -> Table:
    rows = ((c["type"], c["status"], c["reason"], c.get("message", "")) for c in conditions)
    return table(("CONDITION", "STATUS", "REASON", "MESSAGE"), rows)


def _machines_table(machines: Sequence[dict[str, Any]]) -> Table:
    rows = (
        [*(machine.get(field) for field in MACHINE_COLUMNS[:-2]), written(machine), machine.get("message")]
        for machine in machines
    )
    return table(("INSTANCE", "MACHINE", "STATE", "SYSTEM", "DISK#", "NODE", "WRITTEN#", "MESSAGE"), rows)


def written(machine: Mapping[str, Any]) -> str:
    """Bytes that the guest has written, for a person; empty: unknown."""
    return format_bytes(machine["writtenBytes"]) if "writtenBytes" in machine else ""


def _history_line(entry: dict[str, Any]) -> Text:
    from rich.text import Text

    way = " -> ".join(name for name in (entry.get("fromSystemName"), entry["toSystemName"]) if name)
    machines = f", {', '.join(entry['machines'])}" if entry.get("machines") else ""
    where, writer = f"instance {entry['instance']}{machines}", entry.get("requestedBy") or "unknown"
    return Text(f"{entry['decisionTime']}  {entry['action']}  {way}  {where}  by {writer}", "dim")
