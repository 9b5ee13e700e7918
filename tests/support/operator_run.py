"""An operator in a test's event loop, which can be started, stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from kigi.process import open_ports, run_operator
from kigi.runtime.ports import Ports
from kigi.runtime.settings import Settings

FAST = Settings(
    resync_s=20.0,
    lease_s=3.0,
    node_grace_s=1.0,
    leader_election=False,
    namespace="kigi-system",
    identity="test",
    hook_image="kigi:dev",
    http_port=0,
)


class OperatorRun:
    """An operator in this event loop. ``kill_after``: it is killed after the answers to that many of its writes.

    A killed operator sends no further requests, does not shut down cleanly, and loses its memory: only the objects on
    the API server remain.
    """

    def __init__(
        self,
        kubeconfig: str,
        *,
        settings: Settings = FAST,
        kill_after: int | None = None,
        requests: Callable[..., Awaitable[None]] | None = None,
    ) -> None:
        self._requests = requests
        self._settings = settings.model_copy(update={"kubeconfig": kubeconfig})
        self._kill_after = kill_after
        self.dead = asyncio.Event()
        self.ports: Ports | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> OperatorRun:
        """Start the operator and wait until its watches run."""
        self.ports = await open_ports(self._settings)
        if self._requests is not None:
            self.ports.kube.vmi_request = self._request  # type: ignore[method-assign]
        if self._kill_after is not None:
            self.ports.kube.guard = self._refuse
            self.ports.kube.after_write = self._count
        self._stop, ready = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(run_operator(self.ports, stop=self._stop, ready=ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        waiting.cancel()
        if self._task.done():
            self._task.result()
        return self

    async def _request(self, *arguments: Any) -> None:
        """Simulated by the test, and counted as a write."""
        assert self.ports is not None
        assert self._requests is not None
        kube = self.ports.kube
        if kube.guard is not None:
            kube.guard()
        await self._requests(*arguments)
        kube.writes += 1
        if kube.after_write is not None:
            kube.after_write(kube.writes)

    @property
    def writes(self) -> int:
        """Number of writing requests so far."""
        assert self.ports is not None
        return self.ports.kube.writes

    def _count(self, writes: int) -> None:
        assert self._kill_after is not None
        if writes >= self._kill_after:
            self.dead.set()
            raise asyncio.CancelledError

    def _refuse(self) -> None:
        if self.dead.is_set():
            raise asyncio.CancelledError

    async def kill(self) -> None:
        """End it like SIGKILL: it does not release the lease, and sends no last write."""
        assert self._task is not None
        assert self.ports is not None
        self.dead.set()
        self.ports.kube.guard = self._refuse
        await self._end()

    async def stop(self) -> None:
        """End it like SIGTERM."""
        self._stop.set()
        assert self._task is not None
        await asyncio.wait({self._task}, timeout=15)
        await self._end()

    async def _end(self) -> None:
        assert self._task is not None
        assert self.ports is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task
        await self.ports.kube.close()

    async def __aenter__(self) -> OperatorRun:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        if not self.dead.is_set():
            await self.stop()
        else:
            await self.kill()
