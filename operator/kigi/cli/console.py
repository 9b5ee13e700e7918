"""``kigi console``: the serial console of a machine, through KubeVirt's subresource."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
import termios
import tty
from collections.abc import Iterator

import aiohttp

from kigi.adapters.kube import load_configuration
from kigi.cli.cluster import Access
from kigi.domain.names import machine_name
from kigi.errors import DeploymentMissing, SpecInvalid, Unreachable

LEAVE = b"\x1d"
"""Ctrl-]"""
_PROTOCOL = "plain.kubevirt.io"


def run_console(access: Access, deployment: str, machine: str, instance: int) -> None:
    """Until Ctrl-], the end of the input, or the end of the VM; raises KigiError."""
    asyncio.run(_run(access, machine_name(deployment, instance, machine)))


async def _run(access: Access, name: str) -> None:
    namespace = access.default_namespace()
    configuration = await load_configuration(access.kubeconfig, access.context)
    path = f"/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}/console"
    url = configuration.host.replace("http", "ws", 1) + path
    headers = {}
    token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    if token:
        headers["Authorization"] = token
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                url, headers=headers, ssl=_trust(configuration), protocols=(_PROTOCOL,), max_msg_size=0
            ) as socket,
        ):
            print(f"connected to {namespace}/{name}; leave with Ctrl-]", file=sys.stderr)
            with _raw_terminal():
                await _pump(socket)
    except aiohttp.WSServerHandshakeError as exc:
        if exc.status == 404:
            raise DeploymentMissing(f"VM {namespace}/{name} does not run") from exc
        raise SpecInvalid(f"VM {namespace}/{name}: the API server answers {exc.status} {exc.message}") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise Unreachable(f"{configuration.host}: {exc}") from exc


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


def _trust(configuration: object) -> ssl.SSLContext | bool:
    if not getattr(configuration, "verify_ssl", True):
        return False
    context = ssl.create_default_context(cafile=getattr(configuration, "ssl_ca_cert", None))
    certificate = getattr(configuration, "cert_file", None)
    if certificate:
        context.load_cert_chain(certificate, getattr(configuration, "key_file", None))
    return context


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
