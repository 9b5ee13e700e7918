"""``kigi console``: the serial console of a machine, over the subresource ``console`` of KubeVirt."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from kigi.cli.choice import one_instance, one_instance_option
from kigi.cli.cluster import Access
from kigi.cli.options import cluster_options, deployment_argument
from kigi.domain.names import machine_name
from kigi.errors import DeploymentMissing, Forbidden, KigiError, SpecInvalid, Unreachable

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

LEAVE = b"\x1d"
"""Ctrl-]"""
READ_BYTES = 4096
PROTOCOL = "plain.kubevirt.io"
OPEN_S = 30.0
"""Time to connect."""


@click.command("console")
@deployment_argument
@click.argument("machine")
@one_instance_option
@cluster_options()
def command(access: Access, deployment: str, machine: str, instance: str | None) -> None:
    """Open the serial console of a machine.

    Ctrl-] leaves it.

    \b
    DEPLOYMENT: SystemDeployment.
    MACHINE: machine of its state.
    """
    if sys.platform == "win32" and sys.stdin.isatty():
        raise SpecInvalid("kigi console needs a terminal of Linux or macOS: use WSL, or virtctl console")
    _open(access, machine_name(deployment, one_instance(access, deployment, instance), machine))


def _open(access: Access, name: str) -> None:
    """Runs until Ctrl-], the end of the input, or the end of the VM."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

    from kigi.adapters.kubernetes.http_connection import open_websocket

    namespace, endpoint = access.default_namespace(), access.endpoint()
    machine, server = f"VM {namespace}/{name}", endpoint.server
    place = f"{quote(namespace, safe='')}/virtualmachineinstances/{quote(name, safe='', errors='replace')}"
    path = f"/apis/subresources.kubevirt.io/v1/namespaces/{place}/console"
    try:
        with open_websocket(endpoint, path, PROTOCOL, OPEN_S, max_size=None) as stream:
            print(f"connected to {namespace}/{name}; leave with Ctrl-]", file=sys.stderr)
            with _raw_terminal():
                _forward(stream)
    except InvalidStatus as exc:
        raise refusal(exc.response.status_code, exc.response.reason_phrase, machine, server) from exc
    except InvalidHandshake as exc:
        raise SpecInvalid(f"{machine}: {server} does not open a console: {exc}; is KubeVirt installed?") from exc
    except (WebSocketException, OSError) as exc:
        raise Unreachable(
            f"{server}: the API server does not answer: {exc}; is the cluster up, and the context the right one?"
        ) from exc


def refusal(status: int, message: str, machine: str, server: str) -> KigiError:
    """The error for an HTTP status with which the API server refuses the console."""
    match status:
        case 404:
            return DeploymentMissing(f"{machine} does not run; see kigi status")
        case 401:
            return SpecInvalid(f"{server}: the API server does not accept the kubeconfig's credentials; log in again")
        case 403:
            return Forbidden(
                f"{machine}: you may not open its console; you need the right to get "
                "virtualmachineinstances/console of subresources.kubevirt.io, as KubeVirt's role kubevirt.io:edit gives"
            )
    return SpecInvalid(f"{machine}: the API server answers {status} {message}")


def _forward(stream: ClientConnection) -> None:
    """Sends keys and prints output until either side ends."""
    import threading

    def send() -> None:
        while (data := os.read(sys.stdin.fileno(), READ_BYTES)) and LEAVE not in data:
            stream.send(data)
        stream.close()

    # A daemon: it waits for a key that may never come when the VM ends first.
    threading.Thread(target=send, daemon=True).start()
    for message in stream:
        sys.stdout.buffer.write(message if isinstance(message, bytes) else message.encode())
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Passes each key on unchanged while the context lasts, if stdin is a terminal."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
