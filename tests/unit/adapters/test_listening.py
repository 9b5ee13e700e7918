"""Servers answer on addresses of both families."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest

from kigi.adapters import listening
from kigi.adapters.listening import listen

HAS_IPV6 = socket.has_dualstack_ipv6()


def answering(server: socket.socket, hosts: Sequence[str]) -> list[str]:
    """Of the hosts, those at which a connection to the server's port is accepted."""
    found = []
    for host in hosts:
        try:
            with socket.create_connection((host, server.getsockname()[1]), timeout=5):
                found.append(host)
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("host", "hosts"),
    [
        ("", ["127.0.0.1", "::1"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("[::1]", ["::1"]),
    ],
)
@pytest.mark.skipif(not HAS_IPV6, reason="the machine has no IPv6")
def test_a_server_answers_where_it_was_told(host: str, hosts: list[str]) -> None:
    with listen(host, 0) as server:
        assert answering(server, ["127.0.0.1", "::1"]) == hosts


def test_without_ipv6_it_answers_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening.socket, "has_dualstack_ipv6", lambda: False)
    with listen("", 0) as server:
        assert server.family is socket.AF_INET
        assert answering(server, ["127.0.0.1"]) == ["127.0.0.1"]


def test_a_taken_port_is_an_error() -> None:
    with listen("", 0) as server, pytest.raises(OSError, match="in use"):
        listen("", server.getsockname()[1])
