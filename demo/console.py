"""What guests say on their serial consoles, read as ``virtctl console`` does."""

from __future__ import annotations

import base64
import json
import re
import ssl
import tempfile
import time
from pathlib import Path

import websocket

from demo.targets import DemoFailed

_LINE = re.compile(rb"KIGI-GUEST (machine=[^\r\n]*)")


def read_guest(kubeconfig: Path, namespace: str, vm: str, timeout_s: float = 300) -> dict[str, str]:
    """The fields of the first ``KIGI-GUEST key=value ...`` line that the VM prints from now on.

    Raises DemoFailed when it says nothing in time.
    """
    deadline = time.monotonic() + timeout_s
    cause = "nothing was read"
    while time.monotonic() < deadline:
        try:
            return _read(kubeconfig, namespace, vm, deadline)
        except (OSError, websocket.WebSocketException) as exc:
            cause = f"{type(exc).__name__}: {exc}"
            time.sleep(1)
    raise DemoFailed(f"the guest of {namespace}/{vm} said nothing on its serial console in {timeout_s:.0f} s ({cause})")


def talk(kubeconfig: Path, namespace: str, vm: str, line: str, timeout_s: float = 60) -> None:
    """Type one line on the serial console."""
    connection = _connect(kubeconfig, namespace, vm, timeout_s)
    try:
        connection.send_binary(line.encode() + b"\n")
        time.sleep(1)
    finally:
        connection.close()


def _read(kubeconfig: Path, namespace: str, vm: str, deadline: float) -> dict[str, str]:
    connection = _connect(kubeconfig, namespace, vm, 30)
    said = b""
    try:
        while time.monotonic() < deadline:
            connection.settimeout(min(40.0, max(1.0, deadline - time.monotonic())))
            data = connection.recv()
            said = (said + (data if isinstance(data, bytes) else data.encode()))[-65536:]
            for match in _LINE.finditer(said):
                if said[match.end() : match.end() + 1] in (b"\r", b"\n"):
                    return dict(field.partition("=")[::2] for field in match.group(1).decode(errors="replace").split())
    finally:
        connection.close()
    raise DemoFailed(f"the guest of {namespace}/{vm} did not say who it is; last: {said[-200:]!r}")


def _connect(kubeconfig: Path, namespace: str, vm: str, timeout_s: float) -> websocket.WebSocket:
    config = json.loads(kubeconfig.read_text()) if kubeconfig.read_text().startswith("{") else _yaml(kubeconfig)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        pair.flush()
        context.load_cert_chain(pair.name)
    server = cluster["server"].replace("https://", "wss://")
    path = f"/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{vm}/console"
    return websocket.create_connection(
        server + path, timeout=timeout_s, sslopt={"context": context}, subprotocols=["plain.kubevirt.io"]
    )


def _yaml(path: Path) -> dict[str, list[dict[str, dict[str, str]]]]:
    import yaml

    config: dict[str, list[dict[str, dict[str, str]]]] = yaml.safe_load(path.read_text())
    return config
