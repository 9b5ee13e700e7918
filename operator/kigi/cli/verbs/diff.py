"""``kigi diff A..B``: what differs between two states, and what it costs to go from one to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM
from kigi.cli.api_trees import read_api_trees
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.output import Format, show, table
from kigi.domain.layers import missing_layers, total_bytes, unique_layers
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import ResolvedMachine, ResolvedSystem
from kigi.errors import KigiError, SpecInvalid

if TYPE_CHECKING:
    from rich.console import RenderableType


def run_diff(access: Access, states: str, form: Format) -> None:
    """Prints; raises KigiError."""
    first, dots, second = states.partition("..")
    if not (first and dots and second):
        raise SpecInvalid(f"{states!r}: name two states as A..B")
    data = _read(access, first, second)
    show(data, lambda: _render(data), form)


def _read(access: Access, first: str, second: str) -> dict[str, Any]:
    namespace = access.default_namespace()
    with open_cluster(access) as kube:
        trees = read_api_trees(kube, (IMAGE, SYSTEM), namespace).trees(namespace)
    states = []
    for name in (first, second):
        state = trees.system(name)
        if isinstance(state, KigiError):
            raise state
        states.append(state)
    return difference(*states)


def difference(first: ResolvedSystem, second: ResolvedSystem) -> dict[str, Any]:
    """Machines that differ, and bytes: of each machine's layers that its former disk lacks, and of all together."""
    before = {machine.name: machine for machine in first.machines}
    after = {machine.name: machine for machine in second.machines}
    machines = [
        entry
        for name in sorted(before.keys() | after.keys())
        if (entry := _machine(name, before.get(name), after.get(name))) is not None
    ]
    return {
        "from": first.name,
        "to": second.name,
        "machines": machines,
        "movedBytes": total_bytes(missing_layers(second.layers(), first.layers().keys()).values()),
        "backBytes": total_bytes(missing_layers(first.layers(), second.layers().keys()).values()),
    }


def _machine(name: str, before: ResolvedMachine | None, after: ResolvedMachine | None) -> dict[str, Any] | None:
    if before == after:
        return None
    old = unique_layers(before.chains) if before else {}
    new = unique_layers(after.chains) if after else {}
    if before is None or after is None:
        change = "removed" if after is None else "added"
    elif old.keys() == new.keys() and before.image == after.image:
        change = "template"
    else:
        change = "image"
    return {
        "name": name,
        "change": change,
        "from": before.image if before else None,
        "to": after.image if after else None,
        "bytes": total_bytes(missing_layers(new, old.keys()).values()),
    }


def _render(data: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    if not data["machines"]:
        return f"{data['from']} and {data['to']} are the same"
    moved, back = format_bytes(data["movedBytes"]), format_bytes(data["backBytes"])
    return Group(
        table(
            ("MACHINE", "CHANGE", "FROM", "TO", "NEW#"),
            ((m["name"], m["change"], m["from"], m["to"], format_bytes(m["bytes"])) for m in data["machines"]),
        ),
        "",
        f"{len(data['machines'])} machines; a node that holds {data['from']} lacks {moved}, one that holds "
        f"{data['to']} lacks {back} for the way back",
    )
