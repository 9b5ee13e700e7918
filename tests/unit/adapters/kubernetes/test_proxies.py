"""The proxy of the kubeconfig or the environment, with NO_PROXY by the rules of kubectl."""

from __future__ import annotations

import pytest

from kigi.adapters.kubernetes.proxies import is_direct, proxy_of, shown
from kigi.errors import SpecInvalid

SERVER = "https://lab.example:6443"
BOTH = {"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}


def host_of(named: str | None, environment: dict[str, str], server: str = SERVER) -> str | None:
    found = proxy_of(server, named, environment)
    return found.hostname if found is not None else None


@pytest.mark.parametrize(
    ("named", "environment", "server", "host"),
    [
        (None, {}, SERVER, None),
        (None, BOTH, SERVER, "upper"),
        (None, {"https_proxy": "lower:2"}, SERVER, "lower"),
        (None, {"HTTP_PROXY": "http://plain:3"}, SERVER, None),
        (None, {"HTTP_PROXY": "http://plain:3"}, "http://lab.example", "plain"),
        (None, {**BOTH, "NO_PROXY": "lab.example"}, SERVER, None),
        (None, {**BOTH, "no_proxy": ".example"}, SERVER, None),
        ("http://named:4", {**BOTH, "NO_PROXY": "*"}, SERVER, "named"),
        ("socks5://named:5", {}, SERVER, "named"),
        (None, BOTH, "https://127.0.0.1:6443", None),
        (None, {"HTTPS_PROXY": ""}, SERVER, None),
    ],
)
def test_the_proxy_of_the_kubeconfig_comes_before_that_of_the_environment(
    named: str | None, environment: dict[str, str], server: str, host: str | None
) -> None:
    assert host_of(named, environment, server) == host


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("lab.example", "", False),
        ("lab.example", "*", True),
        ("lab.example", "other, lab.example", True),
        ("LAB.example", "lab.EXAMPLE", True),
        ("a.lab.example", "lab.example", True),
        ("xlab.example", "lab.example", False),
        ("lab.example", ".lab.example", False),
        ("a.lab.example", ".lab.example", True),
        ("a.lab.example", "*.lab.example", True),
        ("lab.example", "lab.example:6443", True),
        ("lab.example", "lab.example:443", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:6443", True),
        ("10.1.2.3", "10.1.2.3:80", False),
        ("10.1.2.30", "10.1.2.3", False),
        ("fd00::7", "fd00::/8", True),
        ("fd00::7", "fd00::7", True),
        ("fd00::7", "[fd00::7]:6443", True),
        ("fd00::7", "[fd00::7]:80", False),
        ("lab.example", "10.0.0.0/8,300.0.0.0/99,[,:", False),
        ("localhost", "", True),
        ("127.9.9.9", "", True),
        ("::1", "", True),
    ],
)
def test_hosts_and_networks_are_reached_directly(host: str, no_proxy: str, direct: bool) -> None:
    assert is_direct(host, 6443, no_proxy) is direct


@pytest.mark.parametrize("url", ["https://u:secret@proxy", "ftp://u:secret@x", "http://", "http://u:secret@x:99999"])
def test_another_proxy_is_refused_with_its_source_and_without_its_password(url: str) -> None:
    for named, environment, source in ((url, {}, "proxy-url"), (None, {"HTTPS_PROXY": url}, "HTTPS_PROXY")):
        with pytest.raises(SpecInvalid, match=source) as caught:
            proxy_of(SERVER, named, environment)
        assert "socks5://" in str(caught.value)
        assert "secret" not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    found = proxy_of(SERVER, "http://u:secret@proxy:3128", {})
    assert found is not None
    assert shown(found) == "http://proxy:3128"
