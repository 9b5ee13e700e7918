"""Servers at the place of QEMU's monitor that send whatever a QEMU in the hands of its guest could."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}}, "capabilities": []}}\n'
Answer = Callable[[socket.socket, dict[str, object]], None]


def returned(connection: socket.socket, command: dict[str, object], value: object = None) -> None:
    """An ordinary answer."""
    connection.sendall(json.dumps({"return": value or {}, "id": command.get("id")}).encode() + b"\n")


def event(name: str, seconds: object = None, microseconds: object = 0) -> bytes:
    """An event of now, or of another time."""
    at = {"seconds": int(time.time()) if seconds is None else seconds, "microseconds": microseconds}
    return json.dumps({"event": name, "timestamp": at}).encode() + b"\n"


class Monitor:
    """A server that behaves like QEMU, apart from what ``answers`` has for a command.

    ``answers`` by the command's name; ``greet`` replaces the greeting. ``seen`` has all commands.
    """

    def __init__(
        self, answers: dict[str, Answer] | None = None, greet: Callable[[socket.socket], None] | None = None
    ) -> None:
        self.answers, self.greet = answers or {}, greet
        self.running = True
        self.seen: list[str] = []

    def serve(self, connection: socket.socket) -> None:
        """One connection, until it ends."""
        with contextlib.suppress(OSError, ValueError), connection:
            if self.greet is not None:
                self.greet(connection)
            else:
                connection.sendall(GREETING)
            for command in commands(connection):
                name = str(command["execute"])
                self.seen.append(name)
                if name in self.answers:
                    self.answers[name](connection, command)
                else:
                    self.behave(connection, command)

    def behave(self, connection: socket.socket, command: dict[str, object]) -> None:
        """What QEMU does."""
        name = command["execute"]
        if name in ("stop", "cont") and self.running == (name == "stop"):
            self.running = name == "cont"
            connection.sendall(event("RESUME" if self.running else "STOP"))
        state = {"running": self.running, "status": "running" if self.running else "paused"}
        returned(connection, command, state if name == "query-status" else {})


def commands(connection: socket.socket) -> Iterator[dict[str, object]]:
    """What the client sends: JSON objects with or without anything in between, as QEMU takes them."""
    decoder, text = json.JSONDecoder(), ""
    while piece := connection.recv(65536):
        text += piece.decode()
        while text := text.lstrip():
            try:
                command, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:]
            yield command


@contextlib.contextmanager
def connected(monitor: Monitor) -> Iterator[socket.socket]:
    """A socket to the server, as ``monitors.sockets.connect`` returns it."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=monitor.serve, args=(theirs,), daemon=True)
    thread.start()
    ours.setblocking(False)
    try:
        yield ours
    finally:
        ours.close()
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def forever(piece: bytes) -> Callable[..., None]:
    """Sends the piece until the reader closes the connection."""

    def send(connection: socket.socket, *_: object) -> None:
        while True:
            connection.sendall(piece)

    return send


def once(text: bytes) -> Callable[..., None]:
    """Sends the text, and nothing else."""
    return lambda connection, *_: connection.sendall(text)


def silent(*_: object) -> None:
    """Sends nothing."""


def gone(connection: socket.socket, *_: object) -> None:
    """Ends the connection."""
    connection.shutdown(socket.SHUT_RDWR)


def drip(connection: socket.socket, *_: object) -> None:
    """Sends one byte after the other, so that something always comes."""
    for byte in GREETING[:-2] + b" " * 10_000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def descriptors(connection: socket.socket, command: dict[str, object]) -> None:
    """Passes descriptors along with an ordinary answer."""
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    text = json.dumps({"return": {"running": True}, "id": command.get("id")}).encode() + b"\n"
    socket.send_fds(connection, [text], opened)
    for descriptor in opened:
        os.close(descriptor)


def socket_at(path: Path) -> socket.socket:
    """A listening socket of this process's user."""
    found = socket.socket(socket.AF_UNIX)
    found.bind(str(path))
    found.listen(1)
    return found
