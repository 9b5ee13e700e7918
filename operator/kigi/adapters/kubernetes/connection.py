"""One API server over a pool of connections: sends requests, streams answers, keeps credentials fresh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from kigi.adapters import bounded_json
from kigi.adapters.kubernetes.api_errors import decode, no_answer
from kigi.adapters.kubernetes.api_requests import ACCEPT, Request
from kigi.adapters.kubernetes.pod_access import certificate_refused, token_refused
from kigi.adapters.tls import lenient, verification_error
from kigi.errors import Unreachable

CONNECT_S = 5.0
STREAMS = 8
"""Connections beside those of requests, for watches: the operator has five."""
FAULTS = (aiohttp.ClientError, TimeoutError, OSError)


Guard = Callable[[], float | None]
"""Raises if a request may not be sent now. Else the seconds within which it must have ended; None: no limit."""


class AnswerTooLong(Unreachable):
    """The answer is longer than the process reads at once: ask for less."""


class ApiConnection:
    """``concurrency`` bounds the requests in flight, ``timeout_s`` each of them. Streams have no limit of their own."""

    def __init__(self, configuration: Configuration, *, user_agent: str, concurrency: int, timeout_s: float) -> None:
        configuration.connection_pool_maxsize = concurrency + STREAMS
        # The library's retries never end for answers 5xx, whatever the number: the caller decides on retries.
        configuration.retries = None
        # aiohttp would read ~/.netrc and the proxy variables before each request; see load_configuration.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._api = ApiClient(configuration)
        lenient(self._api.rest_client.ssl_context)
        self._user_agent = user_agent
        self._slots = asyncio.Semaphore(concurrency)
        self._limits = aiohttp.ClientTimeout(total=timeout_s, connect=min(timeout_s, CONNECT_S))

    async def close(self) -> None:
        """Closes every connection."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def send(
        self, request: Request, *, max_bytes: int | None = None, guard: Guard | None = None
    ) -> dict[str, Any]:
        """The JSON of the answer; raises what ``api_errors`` maps the answer to.

        ``guard`` is called when the request has a slot and credentials, immediately before it is sent.

        Raises AnswerTooLong, without having read the rest, if the answer has more than ``max_bytes``.
        """
        try:
            async with self._slots:
                response = await self._open(request, self._limits, guard)
                text = await (response.read() if max_bytes is None else _read(response, max_bytes, str(request)))
        except FAULTS as exc:
            raise self._no_answer(request, exc) from exc
        if response.status == 401:
            token_refused(self._configuration)
        return decode(response.status, text, str(request), bounded_json.loads)

    @asynccontextmanager
    async def stream(
        self, request: Request, *, duration_s: float, silence_s: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """The body of a successful answer as it comes.

        Raises Unreachable after ``silence_s`` without a byte, or if the answer takes longer than ``duration_s``.
        """
        limits = aiohttp.ClientTimeout(total=duration_s, connect=CONNECT_S, sock_read=silence_s)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._open(request, limits)
            if response.status == 401:
                token_refused(self._configuration)
            if response.status >= 300:
                decode(response.status, await response.read(), str(request))
            yield response.content
        except FAULTS as exc:
            raise self._no_answer(request, exc) from exc
        finally:
            if response is not None:
                response.close()

    async def _open(
        self, request: Request, limits: aiohttp.ClientTimeout, guard: Guard | None = None
    ) -> aiohttp.ClientResponse:
        headers = {"Content-Type": request.content_type, "Accept": ACCEPT, "User-Agent": self._user_agent}
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        request, left_s = guarded(request, guard)
        if left_s is not None:
            total_s = min(left_s, limits.total or left_s)
            limits = aiohttp.ClientTimeout(total=total_s, connect=min(total_s, CONNECT_S))
        answer = await self._api.rest_client.request(  # type: ignore[no-untyped-call]
            request.method,
            self._configuration.host + request.target,
            headers=headers,
            body=request.body,
            _request_timeout=limits,
        )
        response: aiohttp.ClientResponse = answer.response
        return response

    def _no_answer(self, request: Request, exc: BaseException) -> Unreachable:
        refused = verification_error(exc)
        if refused is None:
            return no_answer(str(request), exc)
        certificate_refused(self._api, self._configuration)
        authorities = self._configuration.ssl_ca_cert or "the system"
        hint = f"; the authorities of {authorities} must include the one that issued the API server's certificate"
        return no_answer(str(request), f"its certificate is refused: {refused.verify_message}", hint)


def guarded(request: Request, guard: Guard | None) -> tuple[Request, float | None]:
    """The request as it may be sent now, and the seconds that it may take; None: no limit.

    The API server has the same limit, from when it receives the request: a process that is suspended, or cut off, after
    it has sent a request closes no connection, and the request may wait in the server's queue.
    """
    left_s = guard() if guard is not None else None
    if left_s is None:
        return request, None
    return replace(request, query={**request.query, "timeout": f"{max(1, int(left_s * 1000))}ms"}), left_s


async def _read(response: aiohttp.ClientResponse, max_bytes: int, what: str) -> bytes:
    text = bytearray()
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) > max_bytes:
            response.close()
            raise AnswerTooLong(f"{what}: the answer has more than {max_bytes} bytes")
    return bytes(text)
