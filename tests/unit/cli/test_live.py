"""Objects as they change: nothing is missed over interruptions, and what is drawn follows from the objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from kigi.adapters.kubernetes.resources import INSTANCE
from kigi.cli.choice import make_choice
from kigi.cli.grid import LEGEND, Board, render_board, symbol
from kigi.cli.live import Changed, Event, Interrupted, Listed, follow
from kigi.cli.status_watch import change_lines
from kigi.cli.verbs.history import entries_of, is_about, line_of, new_entries
from kigi.errors import Expired, Forbidden, Unreachable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYTHING = make_choice(())


def instance(name: str, state: str = "Running", *, deployment: str = "office", **more: Any) -> dict[str, Any]:
    machines = [{"name": "mail", "state": state, "writtenBytes": 2**20}, {"name": "dns", "state": "Running"}]
    return {
        "metadata": {"name": f"{deployment}-{name}", "resourceVersion": "7"},
        "spec": {"deploymentRef": {"name": deployment}, "name": name},
        "status": {"systemName": "a", "machines": machines, **more},
    }


class Server:
    """Lists what it has; each watch yields the next script, whose errors are raised."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts, self.lists, self.watched = list(scripts), 0, list[str]()

    def list_version(self, *_: Any) -> tuple[list[dict[str, Any]], str]:
        self.lists += 1
        return [instance("1")], f"{self.lists}00"

    def watch(self, *_: Any, version: str) -> Iterator[dict[str, Any]]:
        self.watched.append(version)
        for step in self.scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step


def changed(version: str, kind: str = "MODIFIED") -> dict[str, Any]:
    body = instance("1")
    body["metadata"]["resourceVersion"] = version
    return {"type": kind, "object": body}


def events(server: Server, count: int, sleeps: list[float]) -> list[Event]:
    return list(itertools.islice(follow(server, INSTANCE, "range", sleep=sleeps.append), count))  # type: ignore[arg-type]


def test_a_watch_that_ends_continues_where_it_was() -> None:
    server = Server([changed("101")], [changed("105", "BOOKMARK")], [changed("106", "DELETED")])
    found = events(server, 3, [])
    assert [type(event) for event in found] == [Listed, Changed, Changed]
    assert isinstance(found[2], Changed)
    assert found[2].is_gone
    assert (server.lists, server.watched) == (1, ["100", "101", "105"])


def test_a_version_that_is_too_old_is_listed_again_and_a_silent_server_is_reported() -> None:
    server, sleeps = Server([Expired("x")], [Unreachable("gone")], [changed("301")]), list[float]()
    found = events(server, 5, sleeps)
    assert [type(event) for event in found] == [Listed, Listed, Interrupted, Listed, Changed]
    assert (server.watched, len(sleeps)) == (["100", "200", "300"], 1), "only a silent server is waited for"


@pytest.mark.parametrize("error", [Unreachable("x"), Forbidden("x")])
def test_what_fails_at_the_begin_is_an_error(error: Exception) -> None:
    server = Server()
    server.list_version = lambda *_: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        events(server, 1, [])


def drawn(board: Board) -> str:
    console = Console(width=200, file=None, record=True)
    with console.capture() as found:
        console.print(render_board(board))
    return found.get()


def test_the_grid_has_a_row_for_each_team_and_names_the_troubles() -> None:
    board = Board("office", EVERYTHING)
    other = instance("1", deployment="lab")
    ready = [{"type": "Ready", "status": "True"}]
    board.list_instances([instance("10", "Failed"), instance("2", conditions=ready), other])
    board.body = {
        "spec": {"systemRef": {"name": "infected"}},
        "status": {"progress": {"heldBytes": 2**20, "wantedBytes": 3 * 2**20}},
    }
    lines = drawn(board).splitlines()
    assert lines[0].strip() == "office  infected: 1/2 instances ready, 1.0 MiB of 3.0 MiB on the nodes"
    assert [line.split()[:3] for line in lines[2:4]] == [["2", "●", "●"], ["10", "●", "✗"]]
    assert lines[1].split() == ["INSTANCE", "dns", "mail", "SYSTEM", "WRITTEN"]
    assert [line.strip() for line in lines[4:]] == [LEGEND, "10 mail: Failed"]


def test_each_symbol_of_the_legend_is_another_one() -> None:
    states = ("Running", "Warming", "Stopped", "Paused", "Failed", "SomethingNew")
    symbols = [symbol(state)[0] for state in states]
    assert len(set(symbols)) == 5
    assert symbols[1] == symbols[5], "an unknown state is in progress"
    assert all(each in LEGEND for each in symbols)


def test_a_pipe_gets_a_line_for_each_change_and_none_without() -> None:
    board = Board("office", make_choice(("1-2", "mail")))
    feed: list[Event | None] = [
        Listed("SystemInstance", [instance("1"), instance("3")]),
        None,
        Changed("SystemInstance", instance("1")),
        Changed("SystemInstance", instance("1", "Failed")),
        Changed("SystemInstance", instance("3", "Failed")),
        Changed("SystemInstance", instance("1"), is_gone=True),
        Interrupted("SystemInstance", Unreachable("no answer")),
    ]
    assert [line.partition("  ")[2] for line in change_lines(board, feed, lambda: NOW)] == [
        "1  mail  Running  a",
        "1  mail  Failed  a",
        "1  mail  gone",
        "no connection, this may be old: no answer",
    ]


def decision(time: str, action: str, *machines: str, request: str | None = None) -> dict[str, Any]:
    return {"decisionTime": time, "action": action, "toSystemName": "a", "machines": machines, "requestName": request}


def test_a_feed_has_every_decision_once_with_the_reason_of_its_request() -> None:
    first = instance("1", history=[decision("t1", "Deployed")])
    second = instance("1", history=[decision("t1", "Deployed"), decision("t2", "Reset", "mail", request="lunch")])
    asked: list[None] = []

    def reasons() -> dict[str, str]:
        asked.append(None)
        return {"lunch": "the\nbreak"}

    feed = [
        Listed("SystemInstance", [first, instance("1", deployment="lab", history=[decision("t0", "Deployed")])]),
        Changed("SystemInstance", second),
        Changed("SystemInstance", second),
        Listed("SystemInstance", [second]),
    ]
    found = list(new_entries(feed, "office", EVERYTHING, reasons))
    assert [(entry["time"], entry["reason"]) for entry in found] == [("t1", None), ("t2", "the\nbreak")]
    assert len(asked) == 1
    assert line_of(found[1]) == "t2  Reset  a  instance 1, mail  by unknown: the break"


def test_decisions_about_all_machines_are_about_each() -> None:
    body = instance(
        "7", history=[decision("t1", "Reset", "mail"), decision("t2", "Reset"), decision("t3", "Reset", "dns")]
    )
    entries = entries_of([body], make_choice(("7", "mail")), {})
    assert [entry["time"] for entry in entries] == ["t1", "t2"]
    assert not is_about(entries[0], make_choice((), all_but="7"))
    assert is_about(entries[0], make_choice((), all_but="8"))
