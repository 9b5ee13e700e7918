"""What a destructive verb would do: machines, bytes that move to each node, and bytes that guests wrote and lose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kigi.cli.choice import Chosen, reported_machines
from kigi.cli.consent import Consent
from kigi.cli.output import Format, print_data, print_on_stderr, table
from kigi.domain.instance_ranges import format_instances
from kigi.domain.names import instance_order
from kigi.domain.quantities import format_bytes
from kigi.errors import Forbidden

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from kigi.adapters.kubernetes.session import KubeSession

Preview = dict[str, Any]
"""What a verb prints with ``--dry-run -o json``; see ``shapes.Preview``."""
ROWS = 30
"""Most machines that the screen lists one by one; above that it has one row per instance."""
NO_PLAN = "the bytes that move are unknown: you need the ClusterRole kigi-cluster-view to see them"


@dataclass(frozen=True, slots=True)
class Effect:
    """How a verb names what it does."""

    verb: str
    """Begin of the question, such as ``reset``."""
    action: str
    """What happens to each machine, for a caller who may not see the plan."""
    loses: bool = True
    """Whether that action loses what guests wrote."""


def preview_change(
    kube: KubeSession,
    chosen: Chosen,
    documents: Sequence[Mapping[str, Any]],
    effect: Effect,
    *,
    notes: Iterable[str] = (),
) -> Preview:
    """The effect of ``documents`` (changed or new objects) on the chosen machines.

    By the operator's planner; for a caller who may read too little, by the statuses of the instances.
    Raises KigiError.
    """
    written = _written(chosen.instances)
    try:
        plan = _plan(kube, chosen, documents)
    except Forbidden:
        machines = list(_without_plan(chosen, effect, written))
        return _preview(chosen, machines, None, [*notes, NO_PLAN])
    from kigi.cli.change_plan import LOSSES

    machines = [
        {**machine, "lostBytes": written.get((machine["instance"], machine["name"]))}
        if machine["action"] in LOSSES
        else {**machine, "lostBytes": 0}
        for machine in plan["machines"]
    ]
    more = [f"a part cannot be placed: {plan['problem']}"] if plan["problem"] else []
    return _preview(chosen, machines, plan["nodes"], [*notes, *more])


def confirm_change(
    kube: KubeSession,
    chosen: Chosen,
    documents: Sequence[Mapping[str, Any]],
    effect: Effect,
    consent: Consent,
    form: Format,
    *,
    notes: Iterable[str] = (),
) -> bool:
    """Shows the effect of the documents and asks, unless ``--yes`` was given; False with ``--dry-run``.

    Raises NotConfirmed.
    """
    if not consent.needs_preview:
        return True
    preview = preview_change(kube, chosen, documents, effect, notes=notes)
    print_preview(preview, form, is_result=consent.dry_run)
    if consent.dry_run:
        return False
    consent.obtain(question(effect.verb, preview))
    return True


def _plan(kube: KubeSession, chosen: Chosen, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from kigi.cli.change_plan import plan_change, put_documents
    from kigi.cli.plan_mirror import read_plan_mirror

    now = datetime.now(UTC)
    mirror = read_plan_mirror(kube, now)
    put_documents(mirror, documents, chosen.namespace)
    names, machines = frozenset(chosen.names), frozenset(chosen.machines)

    def concerns(instance: str, machine: str) -> bool:
        return (chosen.is_whole or instance in names) and (not machines or machine in machines)

    plan = plan_change(mirror, (chosen.namespace, chosen.deployment), now, concerns)
    return {**plan, "machines": [one for one in plan["machines"] if concerns(one["instance"], one["name"])]}


def _written(instances: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Bytes that guests wrote, by instance and machine, as far as the operator has reported them."""
    return {
        (str(one["spec"]["name"]), name): machine["writtenBytes"]
        for one in instances
        for name, machine in reported_machines(one).items()
        if "writtenBytes" in machine
    }


def _without_plan(chosen: Chosen, effect: Effect, written: Mapping[tuple[str, str], int]) -> Iterator[dict[str, Any]]:
    for one in chosen.instances:
        instance = str(one["spec"]["name"])
        reported = reported_machines(one)
        for name in chosen.machines_of(one) or reported:
            yield {
                "instance": instance,
                "name": name,
                "node": reported.get(name, {}).get("nodeName"),
                "action": effect.action,
                "missingLayers": None,
                "missingBytes": None,
                "lostBytes": written.get((instance, name)) if effect.loses else 0,
            }


def _preview(
    chosen: Chosen, machines: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]] | None, notes: list[str]
) -> Preview:
    known = [machine["lostBytes"] for machine in machines if machine["lostBytes"] is not None]
    return {
        "namespace": chosen.namespace,
        "deployment": chosen.deployment,
        "instances": sorted({machine["instance"] for machine in machines}, key=instance_order),
        "machines": list(machines),
        "nodes": list(nodes) if nodes is not None else [],
        "missingBytes": sum(node["missingBytes"] for node in nodes) if nodes is not None else None,
        "lostBytes": sum(known) if len(known) == len(machines) else None,
        "notes": notes,
    }


def print_preview(preview: Preview, form: Format, *, is_result: bool) -> None:
    """Prints it; on stderr unless it ``is_result`` of the call, which programs get as data."""
    if is_result:
        print_data(preview, lambda: render_preview(preview), form, names=lambda: ())
    else:
        print_on_stderr(render_preview(preview))


def render_preview(preview: Preview) -> RenderableType:
    """The preview for a person."""
    from rich.console import Group
    from rich.text import Text

    machines = preview["machines"]
    if not machines:
        head = Text(f"{preview['namespace']}/{preview['deployment']}: nothing changes", "bold")
        return Group(head, *(Text(note, "yellow") for note in preview["notes"]))
    head = Text(
        f"{preview['namespace']}/{preview['deployment']}: {len(machines)} machines of "
        f"{_instances(preview['instances'])}; moves {_size(preview['missingBytes'])}; "
        f"loses {_size(preview['lostBytes'])} that guests wrote",
        "bold",
    )
    rows = _machine_table(machines) if len(machines) <= ROWS else _instance_table(machines)
    nodes = (Text(), _node_table(preview["nodes"])) if preview["nodes"] else ()
    return Group(head, rows, *nodes, *(Text(note, "yellow") for note in preview["notes"]))


def question(verb: str, preview: Preview) -> str:
    """What the verb asks."""
    lost = preview["lostBytes"]
    loss = "" if lost == 0 else f", and lose {_size(lost)} that guests wrote"
    return f"{verb} {len(preview['machines'])} machines of {_instances(preview['instances'])}{loss}?"


def _instances(names: Sequence[str]) -> str:
    return f"instance{'s' if len(names) != 1 else ''} {format_instances(names)}"


def _size(size_bytes: int | None) -> str:
    return "an unknown number of bytes" if size_bytes is None else format_bytes(size_bytes)


def _cell(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else format_bytes(size_bytes)


def _machine_table(machines: Iterable[Mapping[str, Any]]) -> Table:
    columns = ("INSTANCE#", "MACHINE", "NODE", "ACTION", "MOVES#", "LOSES#")
    return table(
        columns,
        (
            (m["instance"], m["name"], m["node"], m["action"], _cell(m["missingBytes"]), _cell(m["lostBytes"]))
            for m in machines
        ),
    )


def _instance_table(machines: Iterable[Mapping[str, Any]]) -> Table:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for machine in machines:
        groups[machine["instance"]].append(machine)
    rows = (
        (name, len(group), ", ".join(sorted({m["action"] for m in group})), _cell(_sum(m["lostBytes"] for m in group)))
        for name, group in sorted(groups.items(), key=lambda item: instance_order(item[0]))
    )
    return table(("INSTANCE#", "MACHINES#", "ACTION", "LOSES#"), rows)


def _sum(sizes: Iterable[int | None]) -> int | None:
    found = list(sizes)
    known = [size for size in found if size is not None]
    return sum(known) if len(known) == len(found) else None


def _node_table(nodes: Iterable[Mapping[str, Any]]) -> Table:
    from rich.text import Text

    return table(
        ("NODE", "MACHINES#", "LAYERS#", "MOVES#", "FREE AFTER#"),
        (
            (
                node["name"],
                node["machines"],
                node["missingLayers"],
                format_bytes(node["missingBytes"]),
                format_bytes(node["freeAfterBytes"]) if node["freeAfterBytes"] >= 0 else Text("does not fit", "red"),
            )
            for node in nodes
        ),
    )
