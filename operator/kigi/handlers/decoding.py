"""Makes kopf decode objects of any depth and size. It has no setting for its decoder, whose errors end its watches."""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp
from kopf._cogs.clients import api

from kigi.adapters import bounded_json


def install() -> None:
    """Replaces the decoder of kopf's watches (``json`` in its client) and of its listings (aiohttp's default)."""
    api.json = SimpleNamespace(loads=bounded_json.loads)  # type: ignore[assignment, attr-defined]
    defaults = aiohttp.ClientResponse.json.__kwdefaults__
    assert defaults is not None
    defaults["loads"] = bounded_json.loads
