"""kopf's part: it watches, and each event goes into the mirror. Nothing is decided here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import kopf

from kigi.adapters.kubernetes.client import load_configuration
from kigi.adapters.kubernetes.resources import WATCHED, Resource
from kigi.runtime.ports import Ports

PREFIX = "kigi.dev"


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
    settings.networking.error_backoffs = (0.5, 1, 2, 4)
    settings.watching.reconnect_backoff = 0.1
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
    async def login(**_: Any) -> kopf.ConnectionInfo:
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
        )

    return login


def quiet() -> None:
    """kopf's own chatter at info level tells of each start of a watch and of each worker."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
