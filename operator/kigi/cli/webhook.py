"""Sends CloudEvents to a webhook: one after the other, again after an error, and to no other server."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from kigi.cli.exit_codes import OptionInvalid

TIMEOUT_S = 10.0
"""For each answer of the webhook."""
ATTEMPTS = 8
"""Attempts for one event: about two minutes."""
FIRST_PAUSE_S = 1.0
"""Before the second attempt; doubles with each."""
MAX_PAUSE_S = 30.0
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"


class Webhook:
    """One URL. ``send`` blocks while the webhook does not answer, so that the order stays."""

    def __init__(self, url: str, token: str | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        """``token``: sent as a bearer token. Raises OptionInvalid for a URL that is no http or https."""
        self._where = parse_url(url)
        self._token, self._sleep = token, sleep

    def send(self, event: Mapping[str, Any]) -> str:
        """Why the event was not taken, after all attempts; empty: it was. A redirect is not followed."""
        cause, pause_s = "", FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            try:
                status = self._post(json.dumps(event).encode())
            except (OSError, http.client.HTTPException) as exc:
                cause = str(exc) or type(exc).__name__
                continue
            if 200 <= status < 300:
                return ""
            cause = f"HTTP {status}"
            if status not in (408, 425, 429) and status < 500:
                break
        return cause

    def _post(self, body: bytes) -> int:
        where = self._where
        host, path = where.hostname or "", (where.path or "/") + (f"?{where.query}" if where.query else "")
        if where.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, where.port, timeout=TIMEOUT_S, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(host, where.port, timeout=TIMEOUT_S)
        headers = {"Content-Type": CONTENT_TYPE, "User-Agent": "kigi"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()


def parse_url(url: str) -> SplitResult:
    """The parts of the URL; raises OptionInvalid."""
    try:
        where = urlsplit(url)
        is_right = where.scheme in ("http", "https") and bool(where.hostname) and where.port != 0
    except ValueError:
        is_right = False
    if not is_right or not url.isascii() or any(sign <= " " for sign in url) or where.username is not None:
        raise OptionInvalid(f"--webhook: {url!r} is no URL such as https://scoring.example/events, without a user")
    return where
