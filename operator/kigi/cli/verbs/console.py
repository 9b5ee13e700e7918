"""``kigi console``: the serial console of a machine, over the subresource ``console`` of KubeVirt."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from kigi.cli.cluster import Access
from kigi.cli.options import cluster_options, deployment_argument
from kigi.domain.names import machine_name
from kigi.errors import DeploymentMissing, Forbidden, KigiError, SpecInvalid, Unreachable

if TYPE_CHECKING:
    import aiohttp

LEAVE = b"\x1d"
"""Ctrl-]"""
READ_BYTES = 4096
PROTOCOL = "plain.kubevirt.io"


@click.command("console")
@deployment_argument
@click.argument("machine")
@click.option("--instance", default="0", show_default=True, help="Name of the instance.")
@cluster_options()
def command(access: Access, deployment: str, machine: str, instance: str) -> None:
    """Open the serial console of a machine.

    Ctrl-] leaves it.

    \b
    DEPLOYMENT: SystemDeployment.
    MACHINE: machine of its state.
    """
    import asyncio

    asyncio.run(_open(access, machine_name(deployment, instance, machine)))


async def _open(access: Access, name: str) -> None:
    """Runs until Ctrl-], the end of the input, or the end of the VM."""
    import aiohttp

    from kigi.adapters.kubernetes.http_connection import identity_headers, proxy_of, ssl_context

    namespace, endpoint = access.default_namespace(), access.endpoint()
    path = f"/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}/console"
    proxy = proxy_of(endpoint, urlsplit(endpoint.server).hostname or "")
    try:
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.ws_connect(
                endpoint.server.replace("http", "ws", 1) + path,
                headers=identity_headers(endpoint),
                ssl=ssl_context(endpoint),
                server_hostname=endpoint.server_name,
                proxy=proxy.geturl() if proxy is not None else None,
                protocols=(PROTOCOL,),
                max_msg_size=0,
            ) as socket,
        ):
            print(f"connected to {namespace}/{name}; leave with Ctrl-]", file=sys.stderr)
            with _raw_terminal():
                await _forward(socket)
    except aiohttp.WSServerHandshakeError as exc:
        raise refusal(exc.status, exc.message, f"VM {namespace}/{name}", endpoint.server) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise Unreachable(
            f"{endpoint.server}: the API server does not answer: {exc}; is the cluster up, and the context the right "
            "one?"
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


async def _forward(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Sends keys and prints output until either side ends."""
    import asyncio

    import aiohttp

    loop = asyncio.get_running_loop()
    keys: asyncio.Queue[bytes] = asyncio.Queue()
    loop.add_reader(sys.stdin.fileno(), lambda: keys.put_nowait(os.read(sys.stdin.fileno(), READ_BYTES)))

    async def send() -> None:
        while (data := await keys.get()) and LEAVE not in data:
            await socket.send_bytes(data)

    async def receive() -> None:
        async for message in socket:
            if message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                data = message.data if isinstance(message.data, bytes) else message.data.encode()
                os.write(sys.stdout.fileno(), data)

    tasks = {asyncio.create_task(send()), asyncio.create_task(receive())}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        loop.remove_reader(sys.stdin.fileno())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Passes each key on unchanged while the context lasts, if stdin is a terminal."""
    if not sys.stdin.isatty():
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
