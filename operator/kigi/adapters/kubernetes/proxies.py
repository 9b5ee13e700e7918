"""Which proxy leads to an API server: that of the kubeconfig, else that of the environment, by the rules of kubectl.

Source of the rules for the variables: https://pkg.go.dev/golang.org/x/net/http/httpproxy. The function of Python's
standard library knows no networks (``10.0.0.0/8``) in NO_PROXY, which is how most sites exclude their API servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from kigi.errors import SpecInvalid

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

SOCKS = ("socks5", "socks5h")
"""Both let the proxy resolve the name, as kubectl does."""
SCHEMES = ("http", *SOCKS)


def proxy_of(server: str, named: str | None, environment: Mapping[str, str]) -> SplitResult | None:
    """The proxy for the URL ``server``, or None. ``named``: ``proxy-url`` of the kubeconfig, which comes first.

    Raises SpecInvalid for a proxy that Kigi cannot use.
    """
    target = urlsplit(server)
    if named is not None:
        return _parsed(named, "proxy-url of the kubeconfig")
    variable = f"{target.scheme}_proxy"
    url = environment.get(variable.upper()) or environment.get(variable)
    if not url:
        return None
    port = target.port or (443 if target.scheme == "https" else 80)
    excluded = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    return None if is_direct(target.hostname or "", port, excluded) else _parsed(url, variable.upper())


def _parsed(url: str, source: str) -> SplitResult:
    try:
        proxy = urlsplit(url if "//" in url else f"http://{url}")
        known = proxy.scheme in SCHEMES and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        known = False
    if not known:
        raise SpecInvalid(
            f"{source} {_without_password(url)!r}: expected: http:// or socks5:// with host and port, such as "
            "http://proxy.example:3128; a proxy behind https:// is not supported"
        )
    return proxy


def _without_password(url: str) -> str:
    scheme, slashes, rest = url.rpartition("//")
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}"


def shown(proxy: SplitResult) -> str:
    """The proxy's URL without its password."""
    return _without_password(proxy.geturl())


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY, or the host itself, excludes the proxies of the environment."""
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host.lower(), port, address) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, port: int, address: IPv4Address | IPv6Address | None) -> bool:
    """Whether one entry of NO_PROXY, in lower case, has that host or address."""
    if entry in ("", "*"):
        return entry == "*"
    if "/" in entry:
        return address is not None and _in_network(address, entry)
    name, number = _name_and_port(entry)
    if number and number != str(port):
        return False
    if address is not None:
        return _address(name) == address
    if name.startswith(("*.", ".")):
        return host.endswith(name.removeprefix("*"))
    return host == name or host.endswith(f".{name}")


def _name_and_port(entry: str) -> tuple[str, str]:
    """``name``, ``name:1``, ``::1`` or ``[::1]:1`` as name and port; no port: empty."""
    if _address(entry) is not None:
        return entry, ""
    name, _, number = entry.rpartition(":") if ":" in entry.rpartition("]")[2] else (entry, "", "")
    return name.strip("[]"), number


def _in_network(address: IPv4Address | IPv6Address, entry: str) -> bool:
    from ipaddress import ip_network

    try:
        return address in ip_network(entry, strict=False)
    except ValueError:
        return False


def _address(text: str) -> IPv4Address | IPv6Address | None:
    from ipaddress import ip_address

    try:
        return ip_address(text)
    except ValueError:
        return None
