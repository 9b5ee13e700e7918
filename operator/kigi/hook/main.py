"""``kigi-disk-hook``: the sidecar's server.

virt-launcher finds the socket, calls Info once, and then OnDefineDomain for each definition of the domain. Every
failure becomes a gRPC error: the definition fails, the VM does not start, and the VMI's condition shows the text.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from kigi.hook import messages
from kigi.hook.domain import DomainRefused, open_as_qcow2
from kigi.hook.launcher import PERIOD_S, TABLE, LauncherWatch, read_sockets
from kigi.hook.monitor import add_monitor

SOCKET_DIR = "/var/run/kubevirt-hooks"
SOCKET_NAME = "kigi-disk-hook.sock"
"""virt-launcher distinguishes sidecars only by the names of their sockets."""
VERSIONS = ("v1alpha3", "v1alpha2")
HOOK_POINTS = ("OnDefineDomain", "Shutdown")
"""Without OnDefineDomain in this list, virt-launcher would start the VM on a raw disk."""

_Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


def define_domain(request: bytes, context: grpc.ServicerContext) -> bytes:
    """OnDefineDomain. FAILED_PRECONDITION with the cause if the hook cannot change the domain."""
    try:
        document, disks = open_as_qcow2(messages.domain_xml(request))
    except (DomainRefused, messages.MessageInvalid) as exc:
        _log(f"domain refused: {exc}")
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"kigi-disk-hook: {exc}")
        raise
    _log(f"disks opened as qcow2: {disks}")
    return messages.define_domain_result(add_monitor(document))


def build_server(address: str, on_shutdown: Callable[[], None]) -> grpc.Server:
    """A started server at ``address``. It answers as soon as the socket exists."""

    def info(_: bytes, __: grpc.ServicerContext) -> bytes:
        return messages.info_result("kigi-disk-hook", HOOK_POINTS, VERSIONS)

    def shutdown(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(on_shutdown)
        return b""

    server = grpc.server(ThreadPoolExecutor(2))
    handlers = [_service("kubevirt.hooks.info.Info", {"Info": info})]
    for version in VERSIONS:
        handlers.append(
            _service(f"kubevirt.hooks.{version}.Callbacks", {"OnDefineDomain": define_domain, "Shutdown": shutdown})
        )
    server.add_generic_rpc_handlers(handlers)
    server.add_insecure_port(address)
    server.start()
    return server


def main() -> None:
    """Serve until virt-launcher calls Shutdown or has ended, or until SIGTERM."""
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    directory = sys.argv[1] if len(sys.argv) > 1 else SOCKET_DIR
    path = os.path.join(directory, SOCKET_NAME)
    server = build_server(f"unix:{path}", done.set)
    _log(f"listening on {path}")
    watch = LauncherWatch(time.monotonic())
    while not done.wait(PERIOD_S):
        try:
            sockets = read_sockets(Path(TABLE).read_text(errors="replace"))
        except OSError as exc:  # shows nothing about virt-launcher, and must not end the hook of a running VM
            _log(f"cannot read {TABLE}: {exc}")
            continue
        if watch.is_gone(sockets, time.monotonic()):
            _log("virt-launcher has ended without calling Shutdown; ending, so that the pod can end")
            break
    server.stop(1).wait()


def _service(name: str, methods: dict[str, _Behaviour]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        name, {method: grpc.unary_unary_rpc_method_handler(behaviour) for method, behaviour in methods.items()}
    )


def _log(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
