"""``kigi console``: the serial console of a machine, through KubeVirt's subresource."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp

from kigi.adapters.kubernetes.http_connection import identity_headers, proxy_of, ssl_context
from kigi.cli.cluster import Access
from kigi.domain.names import machine_name
from kigi.errors import DeploymentMissing, Forbidden, KigiError, SpecInvalid, Unreachable

LEAVE = b"\x1d"
"""Ctrl-]"""
_PROTOCOL = "plain.kubevirt.io"


def run_console(access: Access, deployment: str, machine: str, instance: int) -> None:
    """Until Ctrl-], the end of the input, or the end of the VM; raises KigiError."""
    asyncio.run(_run(access, machine_name(deployment, instance, machine)))


async def _run(access: Access, name: str) -> None:
    namespace, endpoint = access.default_namespace(), access.endpoint()
    path = f"/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}/console"
    url = endpoint.server.replace("http", "ws", 1) + path
    proxy = proxy_of(endpoint, urlsplit(endpoint.server).hostname or "")
    try:
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.ws_connect(
                url,
                headers=identity_headers(endpoint),
                ssl=ssl_context(endpoint),
                server_hostname=endpoint.server_name,
                proxy=proxy.geturl() if proxy is not None else None,
                protocols=(_PROTOCOL,),
                max_msg_size=0,
            ) as socket,
        ):
            print(f"connected to {namespace}/{name}; leave with Ctrl-]", file=sys.stderr)
            with _raw_terminal():
                await _pump(socket)
    except aiohttp.WSServerHandshakeError as exc:
        raise refusal(exc.status, exc.message, f"VM {namespace}/{name}", endpoint.server) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise Unreachable(
            f"{endpoint.server}: the API server does not answer: {exc}; is the cluster up, and the context the right "
            "one?"
        ) from exc


def refusal(status: int, message: str, machine: str, server: str) -> KigiError:
    """What the API server's answer means for a person."""
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


async def _pump(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Keys out, text in, until either side ends."""
    loop = asyncio.get_running_loop()
    keys: asyncio.Queue[bytes] = asyncio.Queue()
    loop.add_reader(sys.stdin.fileno(), lambda: keys.put_nowait(os.read(sys.stdin.fileno(), 4096)))

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
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
