"""One table of answers for every client of the API server, over a real HTTP server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.client import Configuration

from kigi.adapters.kubernetes.api_errors import error_of
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.adapters.kubernetes.resources import SYSTEM
from kigi.adapters.kubernetes.session import KubeSession
from kigi.errors import (
    Conflict,
    Expired,
    Forbidden,
    KigiError,
    NotFound,
    SpecInvalid,
    Throttled,
    Unauthorized,
    Unreachable,
    Waiting,
)
from kigi_cache.node.kube import KubeApi
from tests.support.answering import AnsweringServer

BODY = {"metadata": {"name": "x", "namespace": "ns"}, "spec": {}}
CAUSES = {"causes": [{"field": "spec.x"}]}
Call = Callable[[], Awaitable[object]]

TABLE: list[Any] = [
    pytest.param(400, {"message": "bad"}, SpecInvalid, id="400"),
    pytest.param(401, {"message": "Unauthorized"}, Unauthorized, id="401"),
    pytest.param(403, {"message": 'User "u" cannot patch resource "nodes"'}, Forbidden, id="403"),
    pytest.param(403, {"message": 'admission webhook "w" denied the request: no'}, SpecInvalid, id="403-webhook"),
    pytest.param(403, {"message": "policy p denied request: no"}, SpecInvalid, id="403-policy"),
    pytest.param(403, {"message": "exceeded quota: q"}, Waiting, id="403-quota"),
    pytest.param(403, {"message": "namespace ns is being terminated"}, Waiting, id="403-ending-namespace"),
    pytest.param(404, {"message": "not here"}, NotFound, id="404"),
    pytest.param(409, {"message": "object has been modified"}, Conflict, id="409"),
    pytest.param(410, {"message": "too old resource version"}, Expired, id="410"),
    pytest.param(422, {"message": "invalid", "details": CAUSES}, SpecInvalid, id="422"),
    pytest.param(429, {"message": "slow down"}, Throttled, id="429"),
    pytest.param(500, {"message": "etcd"}, Unreachable, id="500"),
    pytest.param(502, b"<html>bad gateway</html>", Unreachable, id="502-without-json"),
    pytest.param(503, {}, Unreachable, id="503-without-message"),
]


class Clients:
    """Every client of the API server, each with one request that writes or watches."""

    def __init__(self, url: str, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        configuration = Configuration()
        configuration.host = url
        self.operator = KubeClient(configuration, timeout_s=5)
        self.daemon = KubeApi("n")
        self.command_line = KubeSession(Endpoint(url), manager="me", timeout_s=5)
        self.calls: dict[str, Call] = {
            "operator": lambda: self.operator.create(SYSTEM, BODY),
            "daemon": lambda: self.daemon.warn("uid", "Reason", "message"),
            "daemon's watch": self._watch,
            "command line": lambda: asyncio.to_thread(self.command_line.create, SYSTEM, BODY),
        }

    async def _watch(self) -> None:
        async for _ in self.daemon.watch("1"):
            pass


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with AnsweringServer() as made:
        yield made


@pytest.fixture
async def clients(server: AnsweringServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    made = Clients(server.url, server.kubeconfig(tmp_path / "kubeconfig"), monkeypatch)
    await made.daemon.open()
    yield made
    await made.operator.close()
    await made.daemon.close()
    made.command_line.__exit__()


async def error_from(call: Call) -> KigiError:
    with pytest.raises(KigiError) as caught:
        await call()
    return caught.value


@pytest.mark.parametrize(("status", "answer", "expected"), TABLE)
@pytest.mark.parametrize("client", ["operator", "daemon", "daemon's watch", "command line"])
async def test_every_client_raises_the_same_error_for_an_answer(
    server: AnsweringServer, clients: Clients, client: str, status: int, answer: Any, expected: type[KigiError]
) -> None:
    server.answers = [(status, answer)]
    error = await error_from(clients.calls[client])
    if client == "command line" and expected is Unauthorized:
        assert type(error) is SpecInvalid, "the caller's own credentials: a person must log in again"
        return
    assert type(error) is expected
    message = answer.get("message", f"HTTP {status}") if isinstance(answer, dict) else answer.decode()
    assert message in str(error)
    assert server.asked[0][0] in str(error), "the text names the request"
    assert len(server.asked) == 1, "a client repeats no request on its own"


async def test_the_errors_of_the_table_are_distinct() -> None:
    kinds = {type(error_of(status, {}, "GET /x")) for status in (403, 404, 409, 410, 429, 503, 422)}
    assert len(kinds) == 7


@pytest.mark.parametrize("client", ["operator", "daemon", "daemon's watch", "command line"])
async def test_a_server_that_is_not_there_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    with AnsweringServer() as server:
        clients = Clients(server.url, server.kubeconfig(tmp_path / "kubeconfig"), monkeypatch)
    await clients.daemon.open()
    try:
        error = await error_from(clients.calls[client])
        assert type(error) is Unreachable
        assert "the API server does not answer" in str(error)
    finally:
        await clients.operator.close()
        await clients.daemon.close()


async def test_a_server_that_does_not_answer_in_time_is_unreachable() -> None:
    release = threading.Event()

    def stalled(method: str, path: str) -> tuple[int, Any]:
        release.wait(30)
        return 200, {}

    with AnsweringServer(stalled) as server:
        configuration = Configuration()
        configuration.host = server.url
        async with KubeClient(configuration, timeout_s=0.1) as kube:
            error = await error_from(lambda: kube.get(SYSTEM, "ns", "x"))
        with KubeSession(Endpoint(server.url), manager="me", timeout_s=0.1) as session:
            blocking = await error_from(lambda: asyncio.to_thread(session.get, SYSTEM, "ns", "x"))
        release.set()
    assert type(error) is Unreachable
    assert type(blocking) is Unreachable


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_an_answer_5xx_is_raised_without_a_retry(server: AnsweringServer, clients: Clients, method: str) -> None:
    """The client library would repeat these requests without an end."""
    calls: dict[str, Call] = {
        "GET": lambda: clients.operator.get(SYSTEM, "ns", "x"),
        "PUT": lambda: clients.operator.replace(SYSTEM, BODY),
        "DELETE": lambda: clients.operator.delete(SYSTEM, "ns", "x"),
        "PATCH": lambda: clients.operator.annotate(SYSTEM, "ns", "x", {"a": "b"}),
    }
    server.answers = [(503, {"message": "no backend"})] * 3
    async with asyncio.timeout(5):
        error = await error_from(calls[method])
    assert type(error) is Unreachable
    assert [asked[0] for asked in server.asked] == [method]


@pytest.mark.parametrize(
    ("what", "answer", "expected"),
    [
        pytest.param("PATCH /x", {"message": "the server rejected our request"}, Conflict, id="test-of-a-json-patch"),
        pytest.param("PATCH /x", {"message": "invalid", "details": CAUSES}, SpecInvalid, id="invalid-object"),
        pytest.param("POST /x", {"message": "invalid"}, SpecInvalid, id="not-a-patch"),
    ],
)
def test_a_422_of_a_patch_without_causes_is_a_conflict(
    what: str, answer: dict[str, Any], expected: type[KigiError]
) -> None:
    assert type(error_of(422, answer, what)) is expected
