"""kopf's part: it watches, and each event goes into the mirror. Nothing is decided here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import WATCHED, Resource
from kigi.runtime.ports import Ports

PREFIX = "kigi.dev"
LOGIN_S = 1800.0
"""Age at which kopf logs in again, and reads the cluster's CA. An answer 401 makes it log in at once."""
LOGIN_PAUSE_S = 5.0
"""Least time between two logins: while the API server refuses a valid token, each watch asks for a new login."""
WATCH_SILENCE_S = 70.0
"""A watch without an event or bookmark for this long is cut and opened again. The API server sends a bookmark each
minute, and keeps events for 75 s: none is lost."""
WATCH_BACKOFFS_S = (0.5, 1.0, 2.0, 4.0, 8.0, *[15.0] * 40)
"""Between the tries of one of kopf's requests: 10 minutes. Answers 5xx for longer end the operator, and its pod starts
it again; after errors of connections kopf goes on with a new request."""


class NoDiffs(kopf.DiffBaseStorage):
    """Kigi has no change handlers, so nothing need be remembered of an object, in it or beside it."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None, ignored_fields: Any = None) -> Any:
        """Nothing of the object; kopf would copy the whole of it at each event."""
        return {}

    def fetch(self, *, body: kopf.Body) -> Any:
        """Nothing was remembered."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: Any) -> None:
        """Nothing is remembered."""


class NoProgress(kopf.ProgressStorage):
    """Kigi has no handlers with progress."""

    def fetch(self, *, key: Any, body: kopf.Body) -> Any:
        """No progress."""
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """No progress."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """No progress."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: Any) -> None:
        """No progress."""

    def clear(self, *, essence: Any) -> Any:
        """As it is."""
        return essence


def operator_settings(request_timeout_s: float) -> kopf.OperatorSettings:
    """kopf without events, peers, annotations or finalizers of its own, watching only what carries our label."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = NoDiffs()
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.finalizer = f"{PREFIX}/none"
    # A worker task for each object ends this long after its last event: memory at 10,000 machines.
    settings.queueing.idle_timeout = 1.0
    settings.networking.request_timeout = request_timeout_s
    settings.networking.error_backoffs = WATCH_BACKOFFS_S
    settings.watching.reconnect_backoff = 0.1
    settings.watching.inactivity_timeout = WATCH_SILENCE_S
    settings.watching.chunk_size = 1000
    settings.execution.max_workers = 1
    for resource in WATCHED:
        if resource.selector:
            settings.watching.label_selectors[resource.group, resource.version, resource.plural] = resource.selector
    return settings


def registry(ports: Ports) -> kopf.OperatorRegistry:
    """One handler for each kind, all the same: what was seen goes into the mirror, and that wakes whom it concerns."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(_login(ports.settings.kubeconfig))
    for resource in WATCHED:
        seen = _handler(ports, resource)
        labels: Any = {resource.selector: kopf.PRESENT} if resource.selector else None
        kopf.on.event(
            resource.group, resource.version, resource.plural, labels=labels, registry=handlers, id=resource.plural
        )(seen)
    return handlers


def _handler(ports: Ports, resource: Resource) -> Any:
    async def seen(event: Mapping[str, Any], **_: Any) -> None:
        body = event["object"]
        if event["type"] == "DELETED":
            meta = body["metadata"]
            ports.see_gone(resource.kind, meta.get("namespace"), meta["name"], meta["uid"])
        else:
            ports.see(resource.kind, body)

    return seen


def _login(kubeconfig: str | None) -> Any:
    last = float("-inf")

    async def login(**_: Any) -> kopf.ConnectionInfo:
        nonlocal last
        await asyncio.sleep(max(0.0, last + LOGIN_PAUSE_S - time.monotonic()))
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
            # Also tells two logins apart: kopf ends the operator when it gets credentials that it saw refused.
            expiration=datetime.now(UTC) + timedelta(seconds=LOGIN_S),
        )

    return login


def quiet() -> None:
    """kopf's own chatter at info level tells of each start of a watch and of each worker."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
