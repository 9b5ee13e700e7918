"""Which other daemons exist, and how daemons authenticate each other: by their pods' ServiceAccount tokens.

Members are the ready addresses of the headless Service. A token is projected for the audience ``kigi-peer``. A daemon
accepts a token if the API server confirms that it is valid for this audience and belongs to the daemon's own account.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from kigi.errors import KigiError
from kigi_cache.clock import REAL_TIME, Clock

logger = logging.getLogger(__name__)

AUDIENCE = "kigi-peer"
ACCEPTED_FOR_S = 300.0
"""An accepted token is not reviewed again in this time, so that a silent API server stops no transfers."""
REJECTED_FOR_S = 10.0
"""Also after the API server did not answer: else each request of a peer would wait for it and log it."""
MAX_REMEMBERED = 4096
MAX_TOKEN_CHARACTERS = 16384
REFRESH_S = 15.0
"""Interval in which the members are listed."""


class PeerApi(Protocol):
    """What is requested of the API server."""

    async def review_token(self, token: str, audience: str) -> str:
        """User name of a valid token for this audience; empty for any other."""

    async def peer_addresses(self, namespace: str, service: str) -> list[str]:
        """IP addresses of the ready pods behind a Service."""


class PeerTokens:
    """Gives this daemon's token and checks those of others; results of reviews are remembered."""

    def __init__(self, api: PeerApi, path: Path, clock: Clock = REAL_TIME) -> None:
        """``path``: the projected token, which the kubelet replaces before it expires."""
        self._api = api
        self._path = path
        self._clock = clock
        self._known: dict[bytes, tuple[str, float]] = {}
        """User name and end of validity by the token's hash."""

    def own(self) -> str:
        """This daemon's token as it is now; empty if there is none."""
        try:
            return self._path.read_text().strip()
        except OSError:
            return ""

    async def allowed(self, token: str) -> bool:
        """Whether the token belongs to this daemon's account; False while the API server cannot confirm it."""
        own_user = await self._user(self.own())
        return bool(own_user) and await self._user(token) == own_user

    async def _user(self, token: str) -> str:
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            return ""
        key = hashlib.sha256(token.encode()).digest()
        known = self._known.get(key)
        if known is not None and known[1] > self._clock.monotonic_s():
            return known[0]
        try:
            user = await self._api.review_token(token, AUDIENCE)
        except KigiError as exc:
            logger.warning("token of a peer not reviewed", extra={"cause": str(exc)})
            user = ""
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = (user, self._clock.monotonic_s() + (ACCEPTED_FOR_S if user else REJECTED_FOR_S))
        return user


class Members:
    """The other daemons, as listed last; while the API server is silent they stay the same."""

    def __init__(self, api: PeerApi, namespace: str, service: str, me: str, clock: Clock = REAL_TIME) -> None:
        """``me`` is this daemon's own address; all daemons use its port."""
        self._api = api
        self._namespace, self._service, self._me = namespace, service, me
        self._clock = clock
        self._port = me.rpartition(":")[2]
        self._members: frozenset[str] = frozenset()

    def __call__(self) -> Collection[str]:
        """Addresses of the others, host:port."""
        return self._members

    async def run(self) -> None:
        """List the members in intervals until cancelled."""
        while True:
            try:
                found = await self._api.peer_addresses(self._namespace, self._service)
                self._members = frozenset(address(ip, self._port) for ip in found) - {self._me}
            except KigiError as exc:
                logger.warning("peers not listed", extra={"cause": str(exc)})
            await self._clock.sleep(REFRESH_S)


def address(ip: str, port: str | int) -> str:
    """host:port, with IPv6 addresses in brackets: ``[fd00::2]:9781``."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
