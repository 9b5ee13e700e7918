"""A gRPC server on a unix socket that comes back when its socket is taken away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc

logger = logging.getLogger(__name__)

Method = tuple[Callable[[Any, Any], Awaitable[Any]], type, type]
"""Coroutine function of request and context, the request's message type and the answer's."""

CHECK_INTERVAL_S = 5.0


def build_service(name: str, methods: Mapping[str, Method]) -> grpc.GenericRpcHandler:
    """Handler of one service; a method that is not listed answers UNIMPLEMENTED."""
    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(
                call,
                request_deserializer=request.FromString,  # type: ignore[attr-defined]
                response_serializer=answer.SerializeToString,  # type: ignore[attr-defined]
            )
            for method, (call, request, answer) in methods.items()
        },
    )


class SocketServer:
    """Serves ``services`` at ``path`` for root alone.

    A stale socket is replaced at start. The kubelet's directories may be emptied under us (a new kubelet, a clean-up):
    a socket that is gone or is somebody else's is bound again.
    """

    def __init__(self, path: str, services: Sequence[grpc.GenericRpcHandler]) -> None:
        self.path = path
        self._services = services
        self._server: grpc.aio.Server | None = None
        self._bound = (0, 0)
        self._again = asyncio.Event()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; ``ready`` is called each time that the socket answers."""
        try:
            while True:
                if self._again.is_set() or not self._is_ours():
                    self._again.clear()
                    await self._bind()
                    ready()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._again.wait(), CHECK_INTERVAL_S)
        finally:
            await self._stop()

    def rebind(self) -> None:
        """Make the socket anew, which whoever watches its directory sees as a new plugin."""
        self._again.set()

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
    """Inode and time of its last change: the number alone may be given to the next socket."""
    found = os.lstat(path)
    return found.st_ino, found.st_ctime_ns
