"""Access of a pod to the API server, for a process that runs for months.

Two files change under a running process. The kubelet replaces the projected token before it expires. The cluster's CA
changes when an administrator rotates it. ``kubernetes`` 37.0.1 reads the token again by the wall clock, which may be
set back, and fails when the file is absent for a moment; it reads the CA once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubernetes.aio import config as kube_config
from kubernetes.aio.config import incluster_config

TOKEN_READ_S = 60.0
"""Age at which the token file is read again. The kubelet replaces a token at 80 % of its life."""


class TokenFile:
    """Hook of a ``Configuration`` that keeps its bearer token equal to the file. ``clock`` gives monotonic seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._read_at = float("-inf")

    def __call__(self, configuration: Any) -> None:
        """Reads the file if the last reading is old; keeps the known token if the file is absent or empty."""
        now = self._clock()
        if now - self._read_at < TOKEN_READ_S:
            return
        with contextlib.suppress(OSError):
            if token := self._path.read_text().strip():
                configuration.api_key["BearerToken"] = f"Bearer {token}"
                self._read_at = now

    def expire(self) -> None:
        """The next request reads the file, as after an answer 401."""
        self._read_at = float("-inf")


def load_pod_configuration(configuration: Any) -> None:
    """Fills in server, CA and token of this pod. Raises ``ConfigException`` outside of a pod."""
    kube_config.load_incluster_config(client_configuration=configuration, try_refresh_token=False)  # type: ignore[no-untyped-call]
    configuration.refresh_api_key_hook = TokenFile(Path(incluster_config.SERVICE_TOKEN_FILENAME))


def token_refused(configuration: Any) -> None:
    """Call it after an answer 401: a token that was replaced meanwhile is read with the next request."""
    if isinstance(configuration.refresh_api_key_hook, TokenFile):
        configuration.refresh_api_key_hook.expire()


def certificate_refused(api: Any, configuration: Any) -> None:
    """Call it when the server's certificate does not verify: adds the CA file as it is now to the client's CAs.

    ``api`` is the ``ApiClient``. A former CA stays trusted until the process ends.
    """
    if configuration.ssl_ca_cert:
        with contextlib.suppress(OSError):  # absent, or no PEM (ssl.SSLError)
            api.rest_client.ssl_context.load_verify_locations(configuration.ssl_ca_cert)
