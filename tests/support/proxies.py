"""Real proxies on loopback: tinyproxy for HTTP CONNECT, microsocks for SOCKS 5. Both log what they connect to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster.processes import free_port, is_listening
from tests.support.cluster import eventually

USER, PASSWORD = "alice", "s3cret"


@dataclass(frozen=True)
class Proxy:
    """A running proxy; with a user if ``guarded``."""

    scheme: str
    port: int
    guarded: bool
    log: Path

    def url(self, scheme: str = "", password: str = PASSWORD) -> str:
        """For a kubeconfig or a variable."""
        user = f"{USER}:{password}@" if self.guarded else ""
        return f"{scheme or self.scheme}://{user}127.0.0.1:{self.port}"

    def used(self, port: int) -> int:
        """Connections to that port so far."""
        text = self.log.read_text(errors="replace")
        marks = (f":{port}",) if self.scheme == "socks5" else (f"CONNECT 127.0.0.1:{port} ", f"CONNECT 127.1:{port} ")
        return sum(any(mark in line for mark in marks) for line in text.splitlines())


@contextmanager
def http_proxy(folder: Path, *, guarded: bool = False) -> Iterator[Proxy]:
    """tinyproxy until the context ends."""
    port, log = free_port(), folder / "tinyproxy.log"
    configuration = folder / "tinyproxy.conf"
    configuration.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogLevel Info\nAllow 127.0.0.1\n"
        + (f"BasicAuth {USER} {PASSWORD}\n" if guarded else "")
    )
    with _running(["tinyproxy", "-d", "-c", str(configuration)], port, log):
        yield Proxy("http", port, guarded, log)


@contextmanager
def socks_proxy(folder: Path, *, guarded: bool = False) -> Iterator[Proxy]:
    """microsocks until the context ends."""
    port, log = free_port(), folder / "microsocks.log"
    user = ["-u", USER, "-P", PASSWORD] if guarded else []
    with _running(["microsocks", "-i", "127.0.0.1", "-p", str(port), *user], port, log):
        yield Proxy("socks5", port, guarded, log)


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        eventually(lambda: is_listening("127.0.0.1", port), 20)
        yield
    finally:
        process.terminate()
        process.wait(20)
