"""The confined process that speaks with the QEMUs of one capture: ``python -m kigi_cache.monitors.process``.

Its arguments are the socket to the daemon, the sockets to the VMs, and an empty directory. Before it reads a byte of a
VM it has no rights left. The daemon sends ``hold`` and ``release``; each answer is a line with a JSON list that has an
error and a time for each VM. VMs that this process has stopped continue at any error, after KEEP_S, and when the daemon
ends: what ends this process itself, such as its limits, leaves them to KubeVirt, which continues VMs that it has not
paused.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence

from kigi_cache.monitors.confinement import confine
from kigi_cache.monitors.machine import Machine
from kigi_cache.monitors.protocol import CONNECT_S, CONTINUE_S, HOLD, KEEP_S, MAX_ERROR, RELEASE, STOP_S

Result = tuple[str, int]
"""Error, empty if there is none, and time in microseconds since the epoch, 0 if there is none."""


async def serve(machines: Sequence[Machine], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry out the daemon's commands until it ends the connection."""
    _answer(writer, await _of_all(machines, Machine.connect, CONNECT_S))
    try:
        while await reader.readline() == HOLD:
            await _hold(machines, reader, writer)
    finally:
        await _of_all(machines, Machine.resume, CONTINUE_S)


async def _hold(machines: Sequence[Machine], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """From ``hold`` to the answer to ``release``; without it after an error, or when the daemon has ended."""
    results = await _of_all(machines, Machine.prepare, STOP_S)
    if not _failed(results):
        results = await _of_all(machines, Machine.stop, STOP_S)
    if _failed(results):
        await _of_all(machines, Machine.resume, CONTINUE_S)
        _answer(writer, results)
        return
    _answer(writer, results)
    try:
        async with asyncio.timeout(KEEP_S):
            command = await reader.readline()
    except TimeoutError:
        await _of_all(machines, Machine.resume, CONTINUE_S)
        command = await reader.readline()
        results = [(f"the copies took longer than {KEEP_S:g} s", 0)] * len(machines)
    else:
        proofs = await _of_all(machines, Machine.verify, CONTINUE_S)
        continued = await _of_all(machines, Machine.resume, CONTINUE_S)
        results = [proof if proof[0] else end for proof, end in zip(proofs, continued, strict=True)]
    if command == RELEASE:
        _answer(writer, results)


async def _of_all(
    machines: Iterable[Machine], call: Callable[[Machine], Coroutine[object, object, int | None]], limit_s: float
) -> list[Result]:
    """Result of the call for each machine; all run at the same time, and end within the limit."""

    async def bounded(machine: Machine) -> int | None:
        async with asyncio.timeout(limit_s):
            return await call(machine)

    found = await asyncio.gather(*(bounded(machine) for machine in machines), return_exceptions=True)
    return [(_text(result), 0) if isinstance(result, BaseException) else ("", result or 0) for result in found]


def _failed(results: Iterable[Result]) -> bool:
    return any(error for error, _ in results)


def _text(error: BaseException) -> str:
    """The error as one printable line."""
    text = "no answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_ERROR])


def _answer(writer: asyncio.StreamWriter, results: Sequence[Result]) -> None:
    writer.write(json.dumps(results).encode() + b"\n")


async def _run(control: int, descriptors: Sequence[int]) -> None:
    reader, writer = await asyncio.open_connection(sock=_socket(control), limit=1024)
    await serve([Machine(_socket(descriptor)) for descriptor in descriptors], reader, writer)


def _socket(descriptor: int) -> socket.socket:
    found = socket.socket(fileno=descriptor)
    found.setblocking(False)
    return found


def main() -> None:
    """Arguments: descriptor of the socket to the daemon, those of the VMs' sockets with commas, an empty directory."""
    control, descriptors, root = sys.argv[1:]
    confine(root)
    asyncio.run(_run(int(control), [int(text) for text in descriptors.split(",")]))


if __name__ == "__main__":
    main()
