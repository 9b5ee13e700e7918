"""kopf's watches: each event goes into the mirror. No decision is made here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import WATCHED, Resource
from kigi.handlers.decoding import Backoffs
from kigi.runtime.liveness import Liveness
from kigi.runtime.ports import Ports

PREFIX = "kigi.dev"
PAGE = 25
"""Objects of one page of kopf's listings. It reads a page whole, and each object may have 1.5 MB."""


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """Times of kopf's logins and watches, in seconds."""

    login_s: float = 1800.0
    """Age at which kopf logs in again and reads the cluster's CA. After an answer 401 it logs in immediately."""
    login_pause_s: float = 5.0
    """Least time between two logins: while the API server refuses a valid token, each watch requests a new login."""
    watch_silence_s: float = 70.0
    """A watch without an event or bookmark for this long is closed and opened again. The API server sends a bookmark
    each minute and keeps events for 75 s, so no event is lost."""
    watch_backoffs_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
    """Between the attempts of one of kopf's requests. The last one repeats until the API server answers: a new process
    could not do more."""


TIMES = WatchTimes()


class NoDiffs(kopf.DiffBaseStorage):
    """Kigi has no change handlers, so kopf stores nothing about an object."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None, ignored_fields: Any = None) -> Any:
        """An empty essence: kopf would copy the whole object at each event."""
        return {}

    def fetch(self, *, body: kopf.Body) -> Any:
        """None: nothing is stored."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: Any) -> None:
        """Does nothing."""


class NoProgress(kopf.ProgressStorage):
    """Kigi has no handlers with progress, so kopf stores none."""

    def fetch(self, *, key: Any, body: kopf.Body) -> Any:
        """None: there is no progress."""
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Does nothing."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Does nothing."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: Any) -> None:
        """Does nothing."""

    def clear(self, *, essence: Any) -> Any:
        """The essence, unchanged."""
        return essence


def operator_settings(
    request_timeout_s: float, times: WatchTimes = TIMES, liveness: Liveness | None = None
) -> kopf.OperatorSettings:
    """kopf without events, peers, annotations or finalizers of its own; it watches only objects with Kigi's labels.

    ``liveness``: where its watches report their attempts.
    """
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = NoDiffs()
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.finalizer = f"{PREFIX}/none"
    # A worker task for each object ends this long after its last event: memory at 10,000 machines.
    settings.queueing.idle_timeout = 1.0
    settings.networking.request_timeout = request_timeout_s
    settings.networking.error_backoffs = Backoffs(times.watch_backoffs_s, liveness or Liveness())
    settings.watching.reconnect_backoff = 0.1
    settings.watching.inactivity_timeout = times.watch_silence_s
    settings.watching.chunk_size = PAGE
    settings.execution.max_workers = 1
    for resource in WATCHED:
        if resource.selector:
            settings.watching.label_selectors[resource.group, resource.version, resource.plural] = resource.selector
    return settings


def registry(ports: Ports, times: WatchTimes = TIMES, resources: Sequence[Resource] = WATCHED) -> kopf.OperatorRegistry:
    """The same handler for each kind: it passes the object to the mirror, which enqueues the affected keys."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(_login(ports.settings.kubeconfig, times))
    for resource in resources:
        seen = _handler(ports, resource)
        labels: Any = {resource.selector: kopf.PRESENT} if resource.selector else None
        kopf.on.event(
            resource.group, resource.version, resource.plural, labels=labels, registry=handlers, id=resource.plural
        )(seen)
    return handlers


def _handler(ports: Ports, resource: Resource) -> Any:
    async def seen(event: Mapping[str, Any], **_: Any) -> None:
        body = event["object"]
        if event["type"] is None and ports.mirror.is_older(resource.kind, body):
            ports.doubt.set()
        ports.see_event(resource.kind, event["type"], body)

    return seen


def _login(kubeconfig: str | None, times: WatchTimes) -> Any:
    last = float("-inf")

    async def login(**_: Any) -> kopf.ConnectionInfo:
        nonlocal last
        await asyncio.sleep(max(0.0, last + times.login_pause_s - time.monotonic()))
        last = time.monotonic()
        configuration = await load_configuration(kubeconfig)
        token = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        scheme, value = token.split(" ", 1) if token else ("", "")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme.capitalize() if value else None,
            token=value or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            # Two logins differ by it: kopf ends the operator when it gets credentials that were refused before.
            expiration=datetime.now(UTC) + timedelta(seconds=times.login_s),
        )

    return login


def quiet() -> None:
    """Hide kopf's messages below WARNING: it logs each start of a watch and of each worker."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
