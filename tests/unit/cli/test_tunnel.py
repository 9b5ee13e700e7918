"""The tunnel to a pod, against an API server that speaks a kubelet's protocol."""

from __future__ import annotations

import http.server
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import ServerConnection

from kigi.adapters.kubernetes.port_forward import Tunnel, open_port, refusal
from kigi.cli.cluster import Access
from kigi.cli.reach import _say_once, reachable
from kigi.cli.repositories import Chosen, RepositoryChoice
from kigi.cli.services import OWN_CREDENTIALS
from kigi.errors import Forbidden, KigiError, NotFound, RepositoryUnreachable, SpecInvalid, Unauthorized, Unreachable
from tests.support.cluster import eventually
from tests.support.pod_network import PODS, READER, REPOSITORY, SERVICE, WRITER, PodNetwork, ready_pod

MIB = 2**20


class Echo:
    """A TCP server that returns what it gets."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._repeat, args=(client,), daemon=True).start()

    @staticmethod
    def _repeat(client: socket.socket) -> None:
        with client:
            while data := client.recv(65536):
                client.sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KIGI_S3_ENDPOINT", "KIGI_S3_BUCKET", "KIGI_NAMESPACE", *OWN_CREDENTIALS):
        monkeypatch.delenv(name, raising=False)
    _say_once.cache_clear()


@pytest.fixture
def network(echo: Echo) -> PodNetwork:
    made = PodNetwork(echo.port)
    made.add_repository("kigi")
    made.add_keys(WRITER, "writer", "wr1ter-secret")
    made.add_keys(READER, "reader", "r3ader-secret")
    return made


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def exchange(url: str, data: bytes) -> bytes:
    """Sends while it receives: neither side may wait for the other."""
    with socket.create_connection(address_of(url), 20) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        got = b""
        while len(got) < len(data) and (part := client.recv(65536)):
            got += part
        sender.join()
        return got


def chosen(access: Access) -> Chosen:
    return RepositoryChoice("main").chosen(access)


def test_many_connections_carry_all_bytes_unchanged(network: PodNetwork, tmp_path: Path) -> None:
    payloads = [random.Random(number).randbytes(number * 300_000 + 1) for number in range(8)]
    results: dict[int, bytes] = {}
    with network.serving(tmp_path) as access, reachable(chosen(access), access) as settings:
        assert settings.endpoint.startswith("http://127.0.0.1:")

        def run(number: int) -> None:
            results[number] = exchange(settings.endpoint, payloads[number])

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [results[number] == payloads[number] for number in range(8)] == [True] * 8
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address_of(settings.endpoint), 5).close()


def test_open_connections_end_with_the_tunnel(network: PodNetwork, tmp_path: Path) -> None:
    before = threading.active_count()
    with network.serving(tmp_path) as access:
        with reachable(chosen(access), access) as settings:
            kept = socket.create_connection(address_of(settings.endpoint), 20)
            kept.sendall(b"x")
            assert kept.recv(1) == b"x"
        assert kept.recv(1) == b"", "the tunnel has closed it"
        kept.close()
    eventually(lambda: threading.active_count() <= before, 10, "its threads end")


def test_the_keys_are_those_of_the_secret_and_are_not_shown(
    network: PodNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with network.serving(tmp_path) as access:
        for writes, key, secret in ((True, "writer", "wr1ter-secret"), (False, "reader", "r3ader-secret")):
            with reachable(chosen(access), access, writes=writes) as settings:
                assert (settings.access_key_id, settings.secret_access_key) == (key, secret)
        with reachable(chosen(access), access) as settings:
            pass
        with reachable(chosen(access), access, keys=False) as settings:
            assert settings.access_key_id is None
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "no credentials for S3 are set: using the keys of Secret kigi-system/kigi-s3-writer",
        "no credentials for S3 are set: using the keys of Secret kigi-system/kigi-s3-reader",
    ]


def test_keys_that_the_caller_names_are_used(
    network: PodNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    with network.serving(tmp_path) as access, reachable(chosen(access), access) as settings:
        assert settings.access_key_id is None, "they come from the environment"
    assert not [path for path in network.asked if "secrets" in path]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda n: n.forbidden.add(WRITER), Forbidden, "you may not read Secret kigi-system/kigi-s3-writer.*AWS_ACC"),
        (lambda n: n.objects.pop(WRITER), SpecInvalid, "kigi-s3-writer does not exist, or lacks"),
        (lambda n: n.objects[WRITER]["data"].update(secretAccessKey="%%"), SpecInvalid, "or lacks accessKeyId"),
        (lambda n: n.objects[REPOSITORY]["spec"].update(credentials={}), SpecInvalid, "no spec.credentials.writer"),
        (lambda n: n.forbidden.add(SERVICE), Forbidden, "right to get services, and to list pods"),
        (lambda n: n.forbidden.add(f"{PODS}/"), Forbidden, "right to get and to create pods/portforward"),
        (lambda n: n.objects.pop(SERVICE), RepositoryUnreachable, "kigi-system/kigi-s3 does not exist"),
        (lambda n: n.objects[PODS].update(items=[]), RepositoryUnreachable, "has no ready pod"),
        (lambda n: n.add_repository("kigi", addressing="VirtualHost"), SpecInvalid, "a tunnel needs Path"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_sent(
    network: PodNetwork, tmp_path: Path, change: Any, error: type[KigiError], words: str
) -> None:
    change(network)
    with network.serving(tmp_path) as access:
        found = chosen(access)
        with pytest.raises(error, match=words), reachable(found, access):
            raise AssertionError("it is not reached")
    assert network.streams == 0


@pytest.mark.parametrize("endpoint", ["http://s3.example", "https://kigi-s3.kigi-system.svc:9000"])
def test_other_servers_are_reached_by_their_address(network: PodNetwork, tmp_path: Path, endpoint: str) -> None:
    network.add_repository("kigi", endpoint)
    with network.serving(tmp_path) as access, reachable(chosen(access), access) as settings:
        assert (settings.endpoint, settings.access_key_id) == (endpoint, None)


def test_the_server_of_option_and_environment_is_reached_by_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = "http://kigi-s3.kigi-system.svc:9000"
    nowhere = Access("/absent")
    with reachable(RepositoryChoice(endpoint=named).chosen(nowhere), nowhere) as settings:
        assert settings.endpoint == named
    monkeypatch.setenv("KIGI_S3_ENDPOINT", named)
    with reachable(RepositoryChoice().chosen(nowhere), nowhere) as settings:
        assert settings.endpoint == named


def test_a_pod_of_the_cluster_has_the_network_itself(
    network: PodNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with network.serving(tmp_path) as access:
        found = chosen(access)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        monkeypatch.delenv("KUBECONFIG", raising=False)
        with reachable(found, Access()) as settings:
            assert settings.endpoint == "http://kigi-s3.kigi-system.svc:9000"


def test_another_pod_takes_over(network: PodNetwork, tmp_path: Path) -> None:
    with network.serving(tmp_path) as access, reachable(chosen(access), access) as settings:
        assert exchange(settings.endpoint, b"one") == b"one"
        network.objects[PODS]["items"] = [ready_pod("kigi-s3-1")]
        assert exchange(settings.endpoint, b"two") == b"two"
    assert network.asked[-1].startswith(f"{PODS}/kigi-s3-1/portforward?ports=9000")


def test_the_reason_of_the_kubelet_is_in_the_error(network: PodNetwork, tmp_path: Path, echo: Echo) -> None:
    echo.close()
    network.port = 1
    with network.serving(tmp_path) as access:
        found = chosen(access)
        with pytest.raises(RepositoryUnreachable, match=r"kigi-system/kigi-s3: error forwarding port 9000"):
            fail_after_asking(found, access)


def fail_after_asking(found: Chosen, access: Access) -> None:
    """As a client of S3 does when its connection ends."""
    with reachable(found, access) as settings:
        assert exchange(settings.endpoint, b"x") == b""
        raise Unreachable("connection reset")


@pytest.mark.parametrize("message", [b"\x07data", b"", "text"])
def test_a_message_of_another_protocol_ends_the_connection(
    network: PodNetwork, tmp_path: Path, message: bytes | str
) -> None:
    def other(stream: ServerConnection) -> None:
        stream.send(message)
        for _ in stream:
            pass

    network.handle = other
    with network.serving(tmp_path) as access:
        endpoint = access.endpoint()
        with Tunnel(lambda: open_port(endpoint, "kigi-system", "kigi-s3-0", 9000)) as tunnel:
            assert exchange(tunnel.url, b"x") == b""
            assert tunnel.problem == "the API server sends a message of another protocol"


def test_the_port_in_front_of_the_data_may_come_in_parts(network: PodNetwork, tmp_path: Path) -> None:
    def parts(stream: ServerConnection) -> None:
        for message in (b"\x00\x28", b"\x01\x28\x23", b"\x00\x23he", b"\x00llo"):
            stream.send(message)

    network.handle = parts
    with network.serving(tmp_path) as access:
        endpoint = access.endpoint()
        with Tunnel(lambda: open_port(endpoint, "kigi-system", "kigi-s3-0", 9000)) as tunnel:
            with socket.create_connection(address_of(tunnel.url), 20) as client:
                got = b""
                while part := client.recv(100):
                    got += part
            assert got == b"hello"


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (403, Forbidden), (404, NotFound), (500, Unreachable)]
)
def test_a_refusal_has_its_reason(status: int, error: type[KigiError]) -> None:
    found = refusal(status, b"because " + b"x" * 10_000, "pod a/b", "https://api")
    assert type(found) is error
    assert len(str(found)) < 700


def test_a_redirect_leads_nowhere(network: PodNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in the cluster that answers with other places gets no signed request sent there."""
    import asyncio

    from kigi.cli.reach import open_chosen
    from kigi.domain.layers import digest_of_hex

    asked: list[tuple[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        location = ""

        def answer(self) -> None:
            asked.append((type(self).__name__, self.path))
            self.send_response(307)
            self.send_header("Location", self.location)
            self.send_header("x-amz-bucket-region", "evil-region-1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = do_POST = answer

        def log_message(self, *_: Any) -> None:
            pass

    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Other", (Handler,), {}))
    first = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("First", (Handler,), {"location": f"http://127.0.0.1:{other.server_address[1]}/kigi/x"})
    )
    threads = [threading.Thread(target=each.serve_forever, args=(0.01,)) for each in (first, other)]
    for thread in threads:
        thread.start()
    network.port = int(first.server_address[1])

    async def ask(access: Access) -> None:
        async with open_chosen(RepositoryChoice("main"), access) as store:
            await store.size_of(digest_of_hex("0" * 64))

    try:
        with network.serving(tmp_path) as access, pytest.raises(KigiError):
            asyncio.run(ask(access))
    finally:
        for each in (first, other):
            each.shutdown()
            each.server_close()
    assert asked
    assert {name for name, _ in asked} == {"First"}


def test_operator_and_daemons_have_no_tunnel() -> None:
    """Only the command line imports it."""
    root = Path(__file__).parents[3]
    users = {
        str(path.relative_to(root))
        for folder in ("operator", "node-cache-daemon")
        for path in (root / folder).rglob("*.py")
        if "port_forward" in path.read_text(encoding="utf-8") and path.name != "port_forward.py"
    }
    assert users == {os.path.join("operator", "kigi", "cli", "reach.py")}
