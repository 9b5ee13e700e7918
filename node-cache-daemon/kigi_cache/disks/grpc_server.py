"""A gRPC server on a unix socket, which binds the socket again if it disappears."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from kigi_cache.clock import Clock

logger = logging.getLogger(__name__)


class Context(Protocol):
    """The part of ``grpc.aio.ServicerContext`` that the daemon uses."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if it has none."""

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with an error. Raises; never returns."""


Method = tuple[Callable[[Any, Context], Awaitable[Message]], type[Message], type[Message]]
"""Coroutine function of request and context, message type of the request, message type of the response."""

CHECK_INTERVAL_S = 5.0


def build_service(name: str, methods: Mapping[str, Method]) -> grpc.GenericRpcHandler:
    """Handler of one service. Methods that are not listed respond UNIMPLEMENTED."""
    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(
                call,
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for method, (call, request, response) in methods.items()
        },
    )


class SocketServer:
    """Serves ``services`` at ``path``; only root may connect.

    A stale socket is replaced at start. A new kubelet or a clean-up may empty the kubelet's directories while the
    daemon runs. So the socket is checked every CHECK_INTERVAL_S, and bound again if it is missing or belongs to another
    process.
    """

    def __init__(self, path: str, services: Sequence[grpc.GenericRpcHandler], *, clock: Clock) -> None:
        self.path = path
        self._services = services
        self._clock = clock
        self._server: grpc.aio.Server | None = None
        self._bound = (0, 0)
        self._rebind = asyncio.Event()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; ``ready`` is called each time that the socket was bound."""
        try:
            while True:
                if self._rebind.is_set() or not self._is_ours():
                    self._rebind.clear()
                    await self._bind()
                    ready()
                await self._clock.wait(self._rebind, CHECK_INTERVAL_S)
        finally:
            await self._stop()

    def rebind(self) -> None:
        """Bind a new socket. A process that watches the directory, such as the kubelet, sees a new plugin."""
        self._rebind.set()

    async def _bind(self) -> None:
        await self._stop()
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self.path).st_mode):
                os.unlink(self.path)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(tuple(self._services))
        server.add_insecure_port(f"unix:{self.path}")
        os.chmod(self.path, 0o600)
        await server.start()
        self._server, self._bound = server, _identity(self.path)
        logger.info("socket bound", extra={"path": self.path})

    def _is_ours(self) -> bool:
        try:
            return self._server is not None and _identity(self.path) == self._bound
        except FileNotFoundError:
            return False

    async def _stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace=2)


def _identity(path: str) -> tuple[int, int]:
    """Inode number and time of the last change: a later socket may get the same inode number."""
    found = os.lstat(path)
    return found.st_ino, found.st_ctime_ns
