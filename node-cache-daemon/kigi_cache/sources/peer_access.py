"""Which daemons there are, and how they know each other: by the tokens that Kubernetes gives their pods.

Members are the ready addresses of the headless Service. A token is a projected ServiceAccount token for the audience
``kigi-peer``; whoever shows one is believed when the API server says that it is valid, for this audience, and of the
account that this daemon has itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from kigi.errors import KigiError

logger = logging.getLogger(__name__)

AUDIENCE = "kigi-peer"
REVIEWED_S = 300.0
REFUSED_S = 10.0
"""Also after the API server did not answer: each request of a peer would wait for it, and log, again."""
REMEMBERED = 4096
LOOK_S = 15.0


class PeerApi(Protocol):
    """What is asked of the API server."""

    async def review_token(self, token: str, audience: str) -> str:
        """User name of a valid token for this audience; empty for any other."""

    async def peer_addresses(self, namespace: str, service: str) -> list[str]:
        """IP addresses of the ready pods behind a Service."""


class PeerTokens:
    """Shows this daemon's token, and judges those of others; answers are remembered for a while."""

    def __init__(self, api: PeerApi, path: Path) -> None:
        self._api = api
        self._path = path
        self._known: dict[bytes, tuple[str, float]] = {}

    def own(self) -> str:
        """Read anew each time: the kubelet replaces it. Empty if there is none."""
        try:
            return self._path.read_text().strip()
        except OSError:
            return ""

    async def allowed(self, token: str) -> bool:
        """Whether it is a token of the account that this daemon has."""
        mine = await self._user(self.own())
        return bool(mine) and await self._user(token) == mine

    async def _user(self, token: str) -> str:
        if not token or len(token) > 16384:
            return ""
        key = hashlib.sha256(token.encode()).digest()
        known = self._known.get(key)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        try:
            user = await self._api.review_token(token, AUDIENCE)
        except KigiError as exc:
            logger.warning("a peer's token could not be checked", extra={"cause": str(exc)})
            user = ""
        while len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = (user, time.monotonic() + (REVIEWED_S if user else REFUSED_S))
        return user


class Members:
    """The other daemons, as last heard; an API server that is silent changes nothing."""

    def __init__(self, api: PeerApi, namespace: str, service: str, me: str) -> None:
        self._api = api
        self._namespace, self._service, self._me = namespace, service, me
        self._port = me.rpartition(":")[2]
        self._members: frozenset[str] = frozenset()

    def __call__(self) -> Collection[str]:
        """Addresses, host:port."""
        return self._members

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                found = await self._api.peer_addresses(self._namespace, self._service)
                self._members = frozenset(address(ip, self._port) for ip in found) - {self._me}
            except KigiError as exc:
                logger.warning("peers not listed", extra={"cause": str(exc)})
            await asyncio.sleep(LOOK_S)


def address(ip: str, port: str | int) -> str:
    """host:port, IPv6 in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
