"""``kigi diff A B``: the machines that differ between two states, and the bytes that each way moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM
from kigi.cli.api_trees import read_api_trees
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.completion import complete_states
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.options import cluster_options, rows_option
from kigi.cli.output import Format, Rows, print_data, table
from kigi.domain.layers import missing_layers, total_bytes, unique_layers
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import ResolvedMachine, ResolvedSystem
from kigi.errors import KigiError

if TYPE_CHECKING:
    from rich.console import RenderableType


COLUMNS = ("name", "change", "from", "to", "bytes")


@click.command("diff")
@click.argument("states", nargs=-1, required=True, shell_complete=complete_states)
@rows_option
@cluster_options()
def command(access: Access, states: tuple[str, ...], form: Format) -> None:
    """Compare two states: machines that differ, and bytes.

    \b
    STATES: two states, as A B or A..B.
    """
    data = difference(*_resolve(access, *two_names(states)))
    print_data(data, lambda: _render(data), form, rows=lambda: Rows(COLUMNS, data["machines"]))


def two_names(words: Sequence[str]) -> tuple[str, str]:
    """The states in ``A B`` or ``A..B``; raises OptionInvalid."""
    names = words[0].split("..") if len(words) == 1 else words
    if len(names) != 2 or not all(names):
        raise OptionInvalid(f"{' '.join(words)!r}: name two states as A B or A..B")
    return names[0], names[1]


def _resolve(access: Access, *names: str) -> list[ResolvedSystem]:
    namespace = access.default_namespace()
    with open_cluster(access) as kube:
        trees = read_api_trees(kube, (IMAGE, SYSTEM), namespace).trees(namespace)
    states = []
    for name in names:
        state = trees.system(name)
        if isinstance(state, KigiError):
            raise state
        states.append(state)
    return states


def difference(first: ResolvedSystem, second: ResolvedSystem) -> dict[str, Any]:
    """The machines that differ, and the bytes that a node with one state lacks for the other.

    ``bytes`` of a machine: its layers in ``second`` that its disks in ``first`` do not use. ``movedBytes`` and
    ``backBytes`` count a layer that several machines share once.
    """
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
        change = "hardware"
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
