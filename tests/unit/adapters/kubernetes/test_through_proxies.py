"""Requests through real proxies: HTTP CONNECT and SOCKS 5, with and without a password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.adapters.kubernetes.resources import SYSTEM
from kigi.adapters.kubernetes.session import KubeSession
from kigi.errors import Unreachable
from tests.support.answering import AnsweringServer
from tests.support.proxies import Proxy, http_proxy, socks_proxy


@pytest.fixture(params=["http", "http with a password", "socks5", "socks5 with a password"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    start = http_proxy if request.param.startswith("http") else socks_proxy
    with start(tmp_path, guarded="password" in request.param) as running:
        yield running


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with AnsweringServer(lambda method, path: (200, {"found": True})) as made:
        yield made


def ask(server: AnsweringServer, proxy_url: str) -> object:
    with KubeSession(Endpoint(server.url, proxy=proxy_url), manager="me", timeout_s=10) as session:
        return session.get(SYSTEM, "ns", "x")


def test_a_request_goes_through_the_proxy(server: AnsweringServer, proxy: Proxy) -> None:
    port = urlsplit(server.url).port or 0
    assert proxy.used(port) == 0
    assert ask(server, proxy.url()) == {"found": True}
    assert proxy.used(port) == 1
    if proxy.scheme == "socks5":
        assert ask(server, proxy.url("socks5h")) == {"found": True}


def test_a_wrong_password_names_the_proxy_and_hides_the_password(server: AnsweringServer, proxy: Proxy) -> None:
    if not proxy.guarded:
        pytest.skip("it asks for no password")
    with pytest.raises(Unreachable) as caught:
        ask(server, proxy.url(password="wr0ng"))
    text = str(caught.value)
    assert f"proxy {proxy.scheme}://127.0.0.1:{proxy.port}: " in text
    assert "wr0ng" not in text
    assert server.asked == []
