"""Teams and machines as a grid for ``kigi status --watch``: from the objects' statuses to what is drawn. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kigi.cli.choice import Choice, is_of, reported_machines
from kigi.domain.names import instance_order
from kigi.domain.quantities import format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SYMBOLS = {
    "Running": ("●", "green"),
    "Stopped": ("○", "dim"),
    "PoweredOff": ("○", "yellow"),
    "Paused": ("‖", "yellow"),
    "Failed": ("✗", "bold red"),
    "CrashLooping": ("✗", "bold red"),
    "Unschedulable": ("✗", "bold red"),
}
"""State of a machine -> symbol and style; the symbols differ without colours, too."""
IN_PROGRESS = ("◐", "cyan")
LEGEND = "● running  ◐ in progress  ○ off  ‖ paused  ✗ trouble"
NAMED_TROUBLES = 5


@dataclass(slots=True)
class Board:
    """What is known of one deployment."""

    deployment: str
    choice: Choice
    body: Mapping[str, Any] | None = None
    """The SystemDeployment."""
    instances: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name within the deployment -> SystemInstance."""
    interruption: str = ""

    def list_instances(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        """Replaces all instances."""
        self.instances = {str(one["spec"]["name"]): one for one in bodies if is_of(one, self.deployment)}

    def put_instance(self, body: Mapping[str, Any], *, is_gone: bool) -> bool:
        """Whether the change concerns what is shown."""
        name = str(body["spec"]["name"])
        if not is_of(body, self.deployment):
            return False
        if is_gone:
            self.instances.pop(name, None)
        else:
            self.instances[name] = body
        return self.shows(name)

    def shows(self, name: str) -> bool:
        """Whether the instance is among the chosen ones; an exclusion shows later instances, too."""
        selection = self.choice.selection
        return selection is None or (name in selection.names) != selection.is_exclusion

    def rows(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(name, SystemInstance) in the order of the screen."""
        return sorted(
            ((name, body) for name, body in self.instances.items() if self.shows(name)),
            key=lambda item: instance_order(item[0]),
        )

    def columns(self) -> list[str]:
        """Names of the machines."""
        named = {name for _, body in self.rows() for name in reported_machines(body)}
        return sorted(named if not self.choice.machines else named & set(self.choice.machines))


def symbol(state: str) -> tuple[str, str]:
    """Symbol and style of a machine's state; an unknown state is in progress."""
    return SYMBOLS.get(state, IN_PROGRESS)


def render_board(board: Board) -> RenderableType:
    """The grid with the progress above it, and the first troubles below."""
    from rich.console import Group
    from rich.text import Text

    columns, rows = board.columns(), board.rows()
    troubles = [Text(line, "red") for line in _troubles(rows, columns)]
    interruption = [Text(board.interruption, "bold red")] if board.interruption else []
    return Group(Text(headline(board), "bold"), *interruption, _grid(rows, columns), Text(LEGEND, "dim"), *troubles)


def headline(board: Board) -> str:
    """State, ready instances, and the bytes that have arrived."""
    rows = board.rows()
    ready = sum(_is_ready(body) for _, body in rows)
    text = f"{board.deployment}: {ready}/{len(rows)} instances ready"
    if board.body is not None:
        text = f"{board.deployment}  {board.body['spec']['systemRef']['name']}: {ready}/{len(rows)} instances ready"
        progress = (board.body.get("status") or {}).get("progress") or {}
        if progress.get("heldBytes", 0) < progress.get("wantedBytes", 0):
            text += f", {format_bytes(progress['heldBytes'])} of {format_bytes(progress['wantedBytes'])} on the nodes"
    return text


def _is_ready(body: Mapping[str, Any]) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _grid(rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[str]) -> RenderableType:
    from kigi.cli.output import table

    return table(("INSTANCE#", *columns, "SYSTEM", "WRITTEN#"), (_row(name, body, columns) for name, body in rows))


def _row(name: str, body: Mapping[str, Any], columns: Sequence[str]) -> list[Text | str]:
    from rich.text import Text

    machines, status = reported_machines(body), body.get("status") or {}
    cells: list[Text | str] = [name]
    for column in columns:
        machine = machines.get(column)
        cells.append(Text(*symbol(str(machine["state"]))) if machine is not None else "")
    written = sum(machine.get("writtenBytes", 0) for machine in machines.values())
    return [*cells, str(status.get("systemName") or ""), format_bytes(written)]


def _troubles(rows: Iterable[tuple[str, Mapping[str, Any]]], columns: Sequence[str]) -> Iterable[str]:
    found = [
        f"{name} {machine}: {body['state']}{': ' + body['message'] if body.get('message') else ''}"
        for name, instance in rows
        for machine, body in reported_machines(instance).items()
        if machine in columns and symbol(str(body["state"]))[0] == "✗"
    ]
    yield from found[:NAMED_TROUBLES]
    if len(found) > NAMED_TROUBLES:
        yield f"and {len(found) - NAMED_TROUBLES} more"
