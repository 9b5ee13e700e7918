"""Which peers a daemon serves: those with a token of its own ServiceAccount.

A token is projected for the audience ``kigi-peer``. Its claims and its signature are checked here, against the keys
that the API server publishes, so that whoever invents tokens costs it nothing. A token that passes is reviewed by the
API server, which also knows whether its pod still exists.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jwt

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
KEYS_AGAIN_S = 10.0
"""Shortest time between two requests for the API server's keys, which a token with an unknown key causes."""
CLOCKS_DIFFER_S = 60.0
"""An expired token is accepted for so long: the clocks of nodes differ."""
REVIEWS_PER_S = 5
"""Most reviews that a daemon requests in a second."""
REVIEW_WAIT_S = 2.0
"""Longest wait for a review's turn, as after a start of many nodes; a later one is refused."""
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")


class TokenApi(Protocol):
    """What is requested of the API server."""

    async def review_token(self, token: str, audience: str) -> str:
        """User name of a valid token for this audience; empty for any other."""

    async def token_keys(self) -> dict[str, Any]:
        """The keys that sign ServiceAccount tokens, as a JSON Web Key Set."""


class PeerTokens:
    """Gives this daemon's token and checks those of others; results of reviews are remembered."""

    def __init__(self, api: TokenApi, path: Path, clock: Clock = REAL_TIME) -> None:
        """``path``: the projected token, which the kubelet replaces before it expires."""
        self._api = api
        self._path = path
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._keys_at_s = float("-inf")
        self._known: dict[bytes, tuple[bool, float]] = {}
        """Whether a correctly signed token is accepted, and until when that is remembered, by its hash."""
        self._reviewing: dict[bytes, asyncio.Future[None]] = {}
        self._reviews: deque[float] = deque([float("-inf")] * REVIEWS_PER_S, REVIEWS_PER_S)
        """Times of the last reviews, and of those that wait for their turn."""
        self._lock = asyncio.Lock()

    def own(self) -> str:
        """This daemon's token as it is now; empty if there is none."""
        try:
            return self._path.read_text().strip()
        except OSError:
            return ""

    async def peer(self, token: str) -> str:
        """Which daemon the token belongs to; empty: to none, or the API server cannot confirm it now."""
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            return ""
        claims = await self._verified(token)
        if claims is None:
            return ""
        key = hashlib.sha256(token.encode()).digest()
        while (reviewing := self._reviewing.get(key)) is not None:  # several requests of a peer begin together
            await asyncio.wait([reviewing])
        known = self._known.get(key)
        if known is None or known[1] <= self._clock.monotonic_s():
            known = await self._review(key, token, str(claims["sub"]))
        return _name(claims) if known[0] else ""

    async def _verified(self, token: str) -> Mapping[str, Any] | None:
        """Claims of a token of this daemon's account, signed by the API server; None for any other."""
        try:
            own = _claims(self.own())
            header, claims = jwt.get_unverified_header(token), _claims(token)
            is_ours = all(claims.get(name) == own[name] for name in ("iss", "sub"))
            audiences = claims.get("aud")
            is_current = self._clock.wall_s() < float(claims["exp"]) + CLOCKS_DIFFER_S
            if not (is_ours and is_current and isinstance(audiences, list) and AUDIENCE in audiences):
                return None
            key = await self._key(str(header.get("kid", "")))
            if key is not None and header["alg"] in ALGORITHMS and header["alg"] == key.algorithm_name:
                jwt.decode(token, key, algorithms=[key.algorithm_name], options=_SIGNATURE_ONLY)
                return claims
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, RecursionError):
            pass
        return None

    async def _key(self, name: str) -> jwt.PyJWK | None:
        """The API server's key of that name."""
        if name not in self._keys:
            async with self._lock:
                await self._read_keys(name)
        return self._keys.get(name)

    async def _read_keys(self, name: str) -> None:
        now_s = self._clock.monotonic_s()
        if name in self._keys or now_s - self._keys_at_s < KEYS_AGAIN_S:
            return
        self._keys_at_s = now_s
        try:
            found = jwt.PyJWKSet.from_dict(await self._api.token_keys())
        except (KigiError, jwt.PyJWTError, AttributeError, KeyError, TypeError, ValueError) as exc:
            logger.warning("keys of tokens not read", extra={"cause": str(exc)})
            return
        self._keys = {str(key.key_id): key for key in found.keys}

    async def _review(self, key: bytes, token: str, subject: str) -> tuple[bool, float]:
        now_s = self._clock.monotonic_s()
        turn_s = max(now_s, self._reviews[0] + 1.0)
        if turn_s > now_s + REVIEW_WAIT_S:
            return False, now_s
        self._reviews.append(turn_s)
        done = self._reviewing[key] = asyncio.get_running_loop().create_future()
        try:
            if turn_s > now_s:
                await self._clock.sleep(turn_s - now_s)
            user = await self._api.review_token(token, AUDIENCE)
        except KigiError as exc:
            logger.warning("token of a peer not reviewed", extra={"cause": str(exc)})
            user = ""
        finally:
            del self._reviewing[key]
            done.set_result(None)
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        is_ours = user == subject
        self._known[key] = (is_ours, self._clock.monotonic_s() + (ACCEPTED_FOR_S if is_ours else REJECTED_FOR_S))
        return self._known[key]


_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    **dict.fromkeys(("verify_aud", "verify_iss", "verify_exp", "verify_iat", "verify_nbf", "verify_sub"), False),
    "verify_jti": False,
}


def _claims(token: str) -> dict[str, Any]:
    """Claims of a token, whoever signed it. Raises PyJWTError."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _name(claims: Mapping[str, Any]) -> str:
    """The pod of a bound token, or else its account."""
    bound = claims.get("kubernetes.io")
    pod = bound.get("pod") if isinstance(bound, dict) else None
    return str(pod.get("uid") if isinstance(pod, dict) else claims["sub"])
