"""``kigi status --watch``: the grid of a class on a terminal, or one line per change in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from kigi.adapters.kubernetes.resources import DEPLOYMENT, INSTANCE
from kigi.cli.choice import Choice, find_chosen, reported_machines
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.grid import Board, render_board
from kigi.cli.live import Changed, Event, Interrupted, Listed, follow_all

FIELDS = ("state", "revision", "systemName", "message")
"""Of a machine: what makes a line."""


def watch_status(access: Access, deployment: str, choice: Choice) -> None:
    """Shows the deployment until Ctrl-C. Raises KigiError if it does not exist or may not be read."""
    namespace = access.default_namespace()
    with open_cluster(access) as kube:
        find_chosen(kube, namespace, deployment, choice)
    board = Board(deployment, choice)
    events = follow_all(lambda: open_cluster(access), (DEPLOYMENT, INSTANCE), namespace)
    if sys.stdout.isatty():
        _draw(board, events)
    else:
        for line in change_lines(board, events, lambda: datetime.now(UTC)):
            print(line, flush=True)


def _draw(board: Board, events: Iterable[Event | None]) -> None:
    from rich.live import Live

    with Live(render_board(board), auto_refresh=False, screen=False) as live:
        for event in events:
            if event is not None and put(board, event):
                live.update(render_board(board), refresh=True)


def put(board: Board, event: Event) -> bool:
    """Takes the event into the board; whether anything that is shown may have changed."""
    match event:
        case Interrupted(cause=cause):
            board.interruption = f"no connection, this may be old: {cause}"
            return True
        case Listed(kind=INSTANCE.kind, bodies=bodies):
            board.interruption = ""
            board.list_instances(bodies)
            return True
        case Listed(bodies=bodies):
            board.body = next((body for body in bodies if body["metadata"]["name"] == board.deployment), None)
            return True
        case Changed(kind=INSTANCE.kind, body=body, is_gone=is_gone):
            return board.put_instance(body, is_gone=is_gone)
        case Changed(body=body, is_gone=is_gone) if body["metadata"]["name"] == board.deployment:
            board.body = None if is_gone else body
            return True
    return False


def change_lines(board: Board, events: Iterable[Event | None], now: Callable[[], datetime]) -> Iterator[str]:
    """A line for each machine that is new or has changed: time, instance, machine, its state, SystemNode, message."""
    seen: dict[tuple[str, str], tuple[Any, ...]] = {}
    for event in events:
        if event is None or not put(board, event) or event.kind != INSTANCE.kind:
            continue
        if isinstance(event, Interrupted):
            yield f"{now():%Y-%m-%dT%H:%M:%SZ}  {board.interruption}"
            continue
        present = {(name, machine): body for name, machine, body in _machines(board)}
        for key, body in present.items():
            if seen.get(key) != (shown := tuple(body.get(each) for each in FIELDS)):
                seen[key] = shown
                system = body.get("systemName") or board.instances[key[0]]["status"].get("systemName") or ""
                words = (f"{now():%Y-%m-%dT%H:%M:%SZ}", *key, body["state"], system, body.get("message") or "")
                yield "  ".join(" ".join(str(word).splitlines()) for word in words).rstrip()
        for key in seen.keys() - present.keys():
            del seen[key]
            yield f"{now():%Y-%m-%dT%H:%M:%SZ}  {key[0]}  {key[1]}  gone"


def _machines(board: Board) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    columns = board.columns()
    for name, body in board.rows():
        for machine, status in reported_machines(body).items():
            if machine in columns:
                yield name, machine, status
