"""One VM's QEMU, through QEMU's own library for its protocol. Only for the confined process of ``monitors.process``.

QEMU may send anything. The library bounds the length of a line and ends the connection at what is no message. Here, the
number of messages is bounded, and every part of a message that decides anything is checked.

Source: QEMU qapi/run-state.json, qapi/misc.json; system/cpus.c: RESUME is sent before the first processor runs, STOP
after the last has stopped, and ``stop`` returns when all disks are flushed. Events and answers come in their order.
"""

from __future__ import annotations

import logging
import socket

from qemu.qmp import Message, QMPClient

MAX_LINE_BYTES = 2**16
"""A greeting has 200 bytes, a state 100, an event rarely 1,000."""
MAX_MESSAGES = 10_000
"""In the life of a connection. QEMU sends a few for each change of its VM."""
_MAX_SECONDS = 2**40
_MICROSECONDS = 10**6

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class MonitorFailed(Exception):
    """What QEMU sent, or did not send; the message has at most a few words of it."""


class _Client(QMPClient):
    """Counts messages, and formats none for a log."""

    def __init__(self) -> None:
        super().__init__(readbuflen=MAX_LINE_BYTES)
        self._messages = 0

    def _cb_inbound(self, msg: Message) -> Message:
        self._messages += 1
        if self._messages > MAX_MESSAGES:
            raise MonitorFailed(f"QEMU sent more than {MAX_MESSAGES} messages")
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class Machine:
    """One VM. Each method raises MonitorFailed, an error of the library, or OSError."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._client = _Client()
        self._client.events.event_filter = self._note
        self._changes: list[tuple[str, int]] = []
        """STOP and RESUME with their times in microseconds since the epoch."""
        self._held_from: int | None = None
        """Number of changes before which the VM was stopped by ``stop``; None: it was not, or runs again."""

    async def connect(self) -> None:
        """Take part in QEMU's protocol."""
        await self._client.connect(self._socket)
        await self._is_running()

    async def prepare(self) -> None:
        """Check that the VM runs."""
        if not await self._is_running():
            raise MonitorFailed("the VM does not run")

    async def stop(self) -> int:
        """Stop the VM; its time, in microseconds since the epoch, at which the last processor had stopped."""
        before = self._held_from = len(self._changes)
        await self._execute("stop")
        changes = self._changes[before:]
        if not changes:
            self._held_from = None  # another client has stopped it meanwhile, which may want it to stay so
        if [name for name, _ in changes] != ["STOP"]:
            raise MonitorFailed(f"{_listed(changes)} instead of STOP when the VM was stopped")
        return changes[0][1]

    async def verify(self) -> None:
        """Check that the VM has not run since ``stop``."""
        if self._held_from is None or await self._is_running():
            raise MonitorFailed("the VM ran again before it was to be continued")
        changes = self._changes[self._held_from :]
        if [name for name, _ in changes] != ["STOP"]:
            raise MonitorFailed(f"{_listed(changes)} while the VM was stopped")

    async def resume(self) -> int:
        """Continue the VM if ``stop`` stopped it; the time at which it continued, or 0 if it had not to be."""
        if self._held_from is None:
            return 0
        before = len(self._changes)
        await self._execute("cont")
        self._held_from = None
        return next((time for name, time in self._changes[before:] if name == "RESUME"), 0)

    async def _is_running(self) -> bool:
        answer = await self._execute("query-status")
        running = answer.get("running") if isinstance(answer, dict) else None
        if not isinstance(running, bool):
            raise MonitorFailed("an answer to query-status without a state")
        return running

    async def _execute(self, command: str) -> object:
        return await self._client.execute(command)

    def _note(self, event: Message) -> bool:
        """Record a change of the VM's state. False: the library keeps no event."""
        name = event.get("event")
        if name in ("STOP", "RESUME"):
            self._changes.append((str(name), _time_of(event)))
        return False


def _time_of(event: Message) -> int:
    found = event.get("timestamp")
    seconds, microseconds = (found.get("seconds"), found.get("microseconds")) if isinstance(found, dict) else (0, 0)
    # A bool is an int, too, and counts as 0 or 1.
    if not isinstance(seconds, int) or not isinstance(microseconds, int):
        raise MonitorFailed("an event without a time")
    if not (0 < seconds < _MAX_SECONDS and 0 <= microseconds < _MICROSECONDS):
        raise MonitorFailed("an event at a time that does not exist")
    return seconds * _MICROSECONDS + microseconds


def _listed(changes: list[tuple[str, int]]) -> str:
    return ", ".join(name for name, _ in changes[:4]) or "no event"
