"""``kigi history``: switches and resets of a deployment, as a table, data or a feed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import INSTANCE, RESET
from kigi.cli.choice import Choice, choice_options, find_chosen, is_of
from kigi.cli.cluster import Access, list_objects, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.live import Event, Interrupted, Listed, follow
from kigi.cli.options import cluster_options, deployment_argument, listing_option
from kigi.cli.output import Format, Rows, object_name, print_csv, print_data, table
from kigi.domain.names import instance_order
from kigi.errors import Forbidden

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kigi.adapters.kubernetes.session import KubeSession

COLUMNS = (
    *("time", "deployment", "instance", "action", "fromSystem", "toSystem"),
    *("machines", "machineCount", "requestedBy", "request", "reason"),
)
Entry = dict[str, Any]
"""One decision, with the fields ``COLUMNS``."""
FOLLOWED = (Format.TABLE, Format.WIDE, Format.CSV, Format.JSON)


@click.command("history")
@deployment_argument
@choice_options
@click.option("--follow", "-f", "is_followed", is_flag=True, help="Continue with each new entry until Ctrl-C.")
@listing_option
@cluster_options()
def command(access: Access, deployment: str, choice: Choice, is_followed: bool, form: Format) -> None:
    """Show who switched and reset what, and when.

    Each instance keeps its last 20 decisions.

    \b
    DEPLOYMENT: SystemDeployment.
    INSTANCES: only these, such as 7, 1-8,12 or red,blue; default: all.
    MACHINE: only decisions about these machines.
    """
    if is_followed and form not in FOLLOWED:
        raise OptionInvalid(f"-o {form}: --follow takes {', '.join(FOLLOWED)}")
    with open_cluster(access) as kube:
        chosen = find_chosen(kube, access.default_namespace(), deployment, choice)
        reasons = _reasons(kube, chosen.namespace)
        entries = entries_of(chosen.instances, choice, reasons)
        if is_followed:
            _follow(kube, chosen.namespace, deployment, choice, form)
            return
    print_data(
        entries,
        lambda: _render(entries, wide=form is Format.WIDE),
        form,
        rows=lambda: Rows(COLUMNS, entries),
        names=lambda: list(dict.fromkeys(object_name(INSTANCE.kind, f"{deployment}-{e['instance']}") for e in entries)),
    )


def entries_of(instances: Iterable[Mapping[str, Any]], choice: Choice, reasons: Mapping[str, str]) -> list[Entry]:
    """Decisions of these SystemInstances, oldest first; ``reasons``: text of each SystemReset."""
    found = [
        entry
        for body in instances
        for decision in (body.get("status") or {}).get("history") or ()
        if is_about(entry := _entry(body, decision, reasons), choice)
    ]
    return sorted(found, key=lambda entry: (entry["time"], instance_order(entry["instance"])))


def is_about(entry: Entry, choice: Choice) -> bool:
    """Whether the decision is about a chosen instance and machine; one about all machines is about each."""
    selection = choice.selection
    if selection is not None and (entry["instance"] in selection.names) == selection.is_exclusion:
        return False
    return not choice.machines or not entry["machines"] or bool(set(choice.machines) & set(entry["machines"]))


def _entry(body: Mapping[str, Any], decision: Mapping[str, Any], reasons: Mapping[str, str]) -> Entry:
    request = decision.get("requestName")
    return {
        "time": decision["decisionTime"],
        "deployment": body["spec"]["deploymentRef"]["name"],
        "instance": str(body["spec"]["name"]),
        "action": decision["action"],
        "fromSystem": decision.get("fromSystemName"),
        "toSystem": decision["toSystemName"],
        "machines": list(decision.get("machines") or ()),
        "machineCount": decision.get("machineCount", 0),
        "requestedBy": decision.get("requestedBy"),
        "request": request,
        "reason": reasons.get(request) if request else None,
    }


def _reasons(kube: KubeSession, namespace: str) -> dict[str, str]:
    """Name -> reason of the SystemResets that exist; none for a caller who may not list them."""
    try:
        return {
            body["metadata"]["name"]: body["spec"]["reason"]
            for body in list_objects(kube, RESET, namespace)
            if body["spec"].get("reason")
        }
    except Forbidden:
        return {}


def _follow(kube: KubeSession, namespace: str, deployment: str, choice: Choice, form: Format) -> None:
    """Prints every entry, and then new ones as they come."""
    if form is Format.CSV:
        print_csv(Rows(COLUMNS, ()))
    for entry in new_entries(follow(kube, INSTANCE, namespace), deployment, choice, lambda: _reasons(kube, namespace)):
        if form is Format.JSON:
            print(json.dumps(entry), flush=True)
        elif form is Format.CSV:
            print_csv(Rows(COLUMNS, [entry]), header=False)
        else:
            print(line_of(entry), flush=True)
        sys.stdout.flush()


def new_entries(
    events: Iterable[Event], deployment: str, choice: Choice, read_reasons: Callable[[], Mapping[str, str]]
) -> Iterator[Entry]:
    """Every decision once, as the events show it; the reasons are read again for a request that is new."""
    seen: set[tuple[object, ...]] = set()
    reasons: dict[str, str | None] = {}
    for event in events:
        if isinstance(event, Interrupted):
            continue
        bodies = event.bodies if isinstance(event, Listed) else () if event.is_gone else (event.body,)
        for entry in entries_of([body for body in bodies if is_of(body, deployment)], choice, {}):
            key = tuple(entry[name] for name in ("instance", "time", "action", "request", "toSystem"))
            if key in seen:
                continue
            seen.add(key)
            request = entry["request"]
            if request is not None and request not in reasons:
                reasons |= {request: None, **read_reasons()}
            yield {**entry, "reason": reasons.get(request)}


def line_of(entry: Entry) -> str:
    """The decision as one line for a person."""
    way = " -> ".join(name for name in (entry["fromSystem"], entry["toSystem"]) if name)
    machines = f", {', '.join(entry['machines'])}" if entry["machines"] else ""
    reason = f": {' '.join(entry['reason'].split())}" if entry["reason"] else ""
    where = f"instance {entry['instance']}{machines}"
    return f"{entry['time']}  {entry['action']}  {way}  {where}  by {entry['requestedBy'] or 'unknown'}{reason}"


def _render(entries: Sequence[Entry], *, wide: bool) -> RenderableType:
    if not entries:
        return "no switch or reset yet"
    columns = ("TIME", "INSTANCE#", "ACTION", "FROM", "TO", "MACHINES", "BY", "REASON", *(("REQUEST",) if wide else ()))
    return table(
        columns,
        (
            (
                entry["time"],
                entry["instance"],
                entry["action"],
                entry["fromSystem"],
                entry["toSystem"],
                ", ".join(entry["machines"]) or f"all {entry['machineCount']}",
                entry["requestedBy"],
                entry["reason"],
                *((entry["request"],) if wide else ()),
            )
            for entry in entries
        ),
    )
