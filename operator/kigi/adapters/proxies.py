"""The HTTP proxy that leads to an S3 server, by the same rules as to an API server."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote

from kigi.adapters.kubernetes.proxies import SOCKS, proxy_of, shown
from kigi.errors import SpecInvalid

DEFAULT_PORT = 80


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> SplitResult | None:
    """The proxy that HTTPS_PROXY or HTTP_PROXY names for ``url``; None: it is reached directly.

    Raises SpecInvalid for one that is no HTTP proxy.
    """
    try:
        found = proxy_of(url, None, environment)
    except ValueError:  # a bad port in ``url``, which the request itself reports
        return None
    if found is not None and found.scheme in SOCKS:
        raise SpecInvalid(
            f"proxy {shown(found)}: repositories are reached through HTTP proxies only; correct HTTPS_PROXY, or name "
            "the server in NO_PROXY"
        )
    return found


def proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """The header that gives the proxy's user; none without one."""
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
