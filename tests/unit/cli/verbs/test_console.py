"""``kigi console`` against a server of KubeVirt's protocol, with keys from a pipe and from a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

PATH = "/apis/subresources.kubevirt.io/v1/namespaces/range/virtualmachineinstances/office-0-mail1/console"
TOKEN = "t0ken"


def echo(stream: ServerConnection) -> None:
    """A guest that repeats each line, and ends after ``bye``."""
    stream.send(b"login: ")
    for message in stream:
        stream.send(b"<" + (message if isinstance(message, bytes) else message.encode()) + b">")
        if b"bye" in message if isinstance(message, bytes) else "bye" in message:
            return


@contextmanager
def console_server(
    folder: Path, handle: Callable[[ServerConnection], None] = echo, refuse: int | None = None
) -> Iterator[tuple[Path, list[Request]]]:
    asked: list[Request] = []

    def check(stream: ServerConnection, request: Request) -> Response | None:
        asked.append(request)
        return stream.respond(refuse, "no") if refuse is not None else None

    server: Server = serve(handle, "127.0.0.1", 0, subprotocols=["plain.kubevirt.io"], process_request=check)  # type: ignore[list-item]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    document = {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "range"}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(document))
    try:
        yield folder / "kubeconfig", asked
    finally:
        server.shutdown()
        thread.join()


def command(kubeconfig: Path) -> list[str]:
    named = ("office", "mail1", "--instance", "0")
    return [sys.executable, "-m", "kigi.cli.main", "console", *named, "--kubeconfig", str(kubeconfig)]


@pytest.mark.parametrize("end", ["of the guest", "of the input"])
def test_keys_reach_the_guest_until_either_side_ends(tmp_path: Path, end: str) -> None:
    with console_server(tmp_path) as (kubeconfig, asked):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command(kubeconfig), bufsize=0, **pipes)  # type: ignore[call-overload]
        assert process.stdout.read(7) == b"login: "
        process.stdin.write(b"bye" if end == "of the guest" else b"root")
        if end == "of the guest":
            assert process.stdout.read() == b"<bye>"
        else:
            assert process.stdout.read(6) == b"<root>"
            process.stdin.close()
        assert process.wait(60) == 0, process.stderr.read()
        process.stdout.close()
        assert asked[0].path == PATH
        assert asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_a_terminal_is_left_with_its_key_and_as_it_was(tmp_path: Path) -> None:
    import termios

    outer, inner = pty.openpty()
    before = termios.tcgetattr(inner)
    with console_server(tmp_path) as (kubeconfig, _):
        process = subprocess.Popen(command(kubeconfig), stdin=inner, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.read(7) == b"login: "
        os.write(outer, b"\x03")  # Ctrl-C is the guest's
        assert process.stdout.read(3) == b"<\x03>"
        os.write(outer, b"\x1d")
        assert process.wait(60) == 0
        assert termios.tcgetattr(inner) == before
    os.close(outer)
    os.close(inner)


@pytest.mark.parametrize(("status", "words", "code"), [(404, "does not run", 1), (403, "kubevirt.io:edit", 1)])
def test_a_refusal_is_one_sentence(tmp_path: Path, status: int, words: str, code: int) -> None:
    with console_server(tmp_path, refuse=status) as (kubeconfig, _):
        done = subprocess.run(command(kubeconfig), input=b"", capture_output=True, check=False, timeout=60)
    assert done.returncode == code
    (line,) = done.stderr.decode().splitlines()
    assert words in line
