"""Stops the VMs of one capture together, and shows that none of them ran before all copies were made.

The daemon connects the sockets and reads nothing of them: a confined process does (``monitors.process``), one for each
capture. So a VM that attacks it reaches other VMs of its own instance at most. What that process answers is checked
like any other foreign text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, ValidationError

from kigi_cache.monitors.protocol import CONNECT_S, CONTINUE_S, HOLD, KEEP_S, MAX_ERROR, RELEASE, STOP_S

MAX_MACHINES = 128
MAX_ANSWER_BYTES = 2**17
MARGIN_S = 3.0
"""For the start of the process, and for a node under load, beyond the limits that the process keeps itself."""
ANSWER_S = 2 * STOP_S + KEEP_S + 2 * CONTINUE_S + MARGIN_S
"""Longest wait for an answer; then the process is killed."""
LONGEST = timedelta(seconds=60)
"""No time that a VM reports is further from the daemon's clock, and no pause longer."""
_YEAR_10000 = 253402300800 * 10**6
"""The first time that a datetime cannot have, in microseconds since the epoch."""
_RESULTS = TypeAdapter(
    Annotated[
        list[tuple[Annotated[str, Field(max_length=MAX_ERROR)], Annotated[int, Field(ge=0, lt=_YEAR_10000)]]],
        Field(max_length=MAX_MACHINES),
    ]
)


class BarrierBroken(Exception):
    """Copies that were made, if any, are not of one moment. The message names the first VM and the cause."""


@dataclass(frozen=True, slots=True)
class Pause:
    """When a VM was stopped, by its QEMU's own events; aware UTC."""

    stopped: datetime
    continued: datetime


class Barrier:
    """The connected VMs of one capture, by name. Its methods must not be called concurrently."""

    def __init__(
        self,
        names: Sequence[str],
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._names = tuple(names)
        self._process, self._reader, self._writer = process, reader, writer
        self._stopped: dict[str, datetime] = {}

    @classmethod
    async def open(cls, connections: Sequence[tuple[str, socket.socket]], empty: Path) -> Self:
        """Start the process for these VMs; it gets the sockets, which are closed here. ``empty``: an empty directory.

        Raises BarrierBroken if a monitor does not answer as QEMU's, and OSError.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            descriptors = [connection.fileno() for _, connection in connections]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-m", "kigi_cache.monitors.process",
                str(theirs.fileno()), ",".join(map(str, descriptors)), str(empty),
                pass_fds=[theirs.fileno(), *descriptors], env={}, cwd="/",
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            for _, connection in connections:
                connection.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_ANSWER_BYTES)
        barrier = cls([name for name, _ in connections], process, reader, writer)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(barrier.close)
            await barrier._results(CONNECT_S + MARGIN_S)
            stack.pop_all()  # it works: the caller closes it
        return barrier

    async def hold(self) -> None:
        """Stop all VMs. Raises BarrierBroken; then all that were stopped run again, or soon will."""
        self._writer.write(HOLD)
        self._stopped = await self._results(ANSWER_S)

    async def release(self) -> dict[str, Pause]:
        """Continue all VMs. Raises BarrierBroken if any has run since ``hold``, or was stopped for too long."""
        self._writer.write(RELEASE)
        continued = await self._results(ANSWER_S)
        pauses = {name: Pause(self._stopped[name], continued[name]) for name in self._names}
        now = datetime.now(UTC)
        for name, pause in pauses.items():
            is_now = abs(now - pause.stopped) <= LONGEST
            if not is_now or not timedelta() <= pause.continued - pause.stopped <= LONGEST:
                raise BarrierBroken(f"{name}: its QEMU reports times that cannot be")
        if max(pause.stopped for pause in pauses.values()) > min(pause.continued for pause in pauses.values()):
            raise BarrierBroken("the VMs were not stopped at the same time, by their QEMUs' events")
        return pauses

    async def close(self) -> None:
        """End the process. VMs that it has stopped continue first, unless it does not end by itself."""
        self._writer.close()
        try:
            async with asyncio.timeout(CONTINUE_S + MARGIN_S):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    async def _results(self, limit_s: float) -> dict[str, datetime]:
        """The next answer: a time for each VM."""
        try:
            async with asyncio.timeout(limit_s):
                line = await self._reader.readline()
            results = _RESULTS.validate_python(json.loads(line), strict=False)
        except (TimeoutError, OSError) as exc:
            raise BarrierBroken(
                f"no answer of the process that speaks with QEMU: {str(exc) or 'it took too long'}"
            ) from exc
        except (ValueError, RecursionError, ValidationError) as exc:
            raise BarrierBroken("the process that speaks with QEMU ended, or gave no proper answer") from exc
        if len(results) != len(self._names):
            raise BarrierBroken("the process that speaks with QEMU answered for other VMs")
        times: dict[str, datetime] = {}
        for name, (error, microseconds) in zip(self._names, results, strict=True):
            if error:
                raise BarrierBroken(f"{name}: {error}")
            times[name] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
        return times
