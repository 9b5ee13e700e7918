"""Provides volumes for csi-sanity, so that it can test the node plugin with existing volumes.

In a cluster the operator writes static PersistentVolumes; csi-sanity only calls CSI's CreateVolume. This server answers
that call with a handle and a chain. With ``forward_to`` it forwards every other call to the daemon's socket, and
reports itself as a controller; otherwise csi-sanity skips the cases that publish a volume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from kigi.hook.messages import bytes_field

CREATE_DELETE_VOLUME = 1
CONTROLLER_SERVICE = 1


@contextmanager
def provisioner(socket: Path, chain: str, forward_to: Path | None = None) -> Iterator[None]:
    """Serve at ``socket``; ``chain`` becomes the volume attribute of that name."""
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([_Handlers(chain, forward_to)])
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(1).wait()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, chain: str, forward_to: Path | None) -> None:
        self._chain = chain
        self._daemon = grpc.insecure_channel(f"unix:{forward_to}") if forward_to else None

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        answers: dict[str, Callable[[bytes], bytes]] = {
            "/csi.v1.Controller/ControllerGetCapabilities": lambda _: _controller_capability(CREATE_DELETE_VOLUME),
            "/csi.v1.Controller/CreateVolume": self._create_volume,
            "/csi.v1.Controller/DeleteVolume": lambda _: b"",
        }
        if self._daemon is not None:
            answers["/csi.v1.Identity/GetPluginCapabilities"] = lambda _: _plugin_capability(CONTROLLER_SERVICE)
        answer = answers.get(call.method)
        if answer is not None:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: answer(request))
        if self._daemon is None or call.method.startswith("/csi.v1.Controller/"):
            return None
        return grpc.unary_unary_rpc_method_handler(self._pass_on(call.method))

    def _pass_on(self, method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        assert self._daemon is not None
        invoke = self._daemon.unary_unary(method)

        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                answer: bytes = invoke(request, timeout=60)
                return answer
            except grpc.RpcError as exc:
                context.abort(exc.code(), exc.details())
                raise

        return call

    def _create_volume(self, request: bytes) -> bytes:
        handle = "sanity." + hashlib.sha256(bytes_field(request, 1)).hexdigest()[:16]
        attribute = _field(1, b"chain") + _field(2, self._chain.encode())
        return _field(1, _field(2, handle.encode()) + _field(3, attribute))


def _controller_capability(kind: int) -> bytes:
    return _field(1, _field(1, bytes([1 << 3, kind])))


def _plugin_capability(kind: int) -> bytes:
    return _field(1, _field(1, bytes([1 << 3, kind])))


def _field(number: int, value: bytes) -> bytes:
    length = len(value)
    size = bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes([number << 3 | 2, *size]) + value
