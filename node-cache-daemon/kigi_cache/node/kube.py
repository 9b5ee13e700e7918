"""The API server as the daemon uses it: its own NodeCache, that object's status, and events about it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from pydantic import ValidationError

from kigi.adapters.kubernetes.pod_access import certificate_refused, load_pod_configuration, token_refused
from kigi.api.node_cache import NodeCache, NodeCacheStatus
from kigi.domain import names
from kigi.errors import SpecInvalid, Unreachable

FIELD_MANAGER = "kigi-cache"
REQUEST_TIMEOUT_S = 15.0
WATCH_S = 240
"""How long one watch lasts; the list after it is the resync."""
SILENCE_S = 100.0
"""Our own heartbeat comes back on the watch every 30 s: a longer silence is a connection that nobody ended."""
EVENT_NAMESPACE = "default"
"""Where events about objects without a namespace belong."""
MAX_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Seen:
    """The NodeCache at one moment; ``cache`` None: there is none."""

    cache: NodeCache | None
    resource_version: str


class KubeApi:
    """Calls about one NodeCache. A failure is raised as Unreachable; an object that we cannot read, as SpecInvalid."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._api: client.ApiClient | None = None

    async def open(self) -> None:
        """Configuration of the pod, or of KUBECONFIG."""
        configuration = client.Configuration()
        path = os.environ.get("KUBECONFIG")
        if path:
            # Named, because the library reads the variable once, when it is imported.
            await config.load_kube_config(config_file=path, client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            load_pod_configuration(configuration)
        self._api = client.ApiClient(configuration)

    async def close(self) -> None:
        """Close the connections."""
        if self._api is not None:
            await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self) -> Seen:
        """The NodeCache now, by a list, whose resourceVersion a watch can start from."""
        found = await self._call(self._custom.list_cluster_custom_object(**self._kind, **self._selector))
        items = found.get("items", [])
        return Seen(_read(items[0]) if items else None, found["metadata"]["resourceVersion"])

    async def watch(self, resource_version: str) -> AsyncIterator[NodeCache | None]:
        """Every later state of the NodeCache (None: deleted) for WATCH_S seconds; Unreachable when it breaks off."""
        try:
            response = await self._custom.list_cluster_custom_object_without_preload_content(
                **self._kind,
                **self._selector,
                watch=True,
                resource_version=resource_version,
                timeout_seconds=WATCH_S,
                _request_timeout=WATCH_S + REQUEST_TIMEOUT_S,
            )
            try:
                if response.status != 200:
                    self._answered(response.status)
                    raise Unreachable(f"watch of NodeCache {self._node_name}: HTTP {response.status}")
                async for line in _lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Unreachable(f"watch of NodeCache {self._node_name}: {event['object'].get('message')}")
                    yield None if event["type"] == "DELETED" else _read(event["object"])
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError, ApiException, ValueError) as exc:
            self._failed(exc)
            raise Unreachable(f"watch of NodeCache {self._node_name}: {_short(exc)}") from exc

    async def write_status(self, status: NodeCacheStatus) -> None:
        """Put the whole status: lists are replaced, and a field that is None is cleared."""
        fields = {field.alias or name: None for name, field in NodeCacheStatus.model_fields.items()}
        body = {"status": fields | status.to_api()}
        await self._call(
            self._custom.patch_cluster_custom_object_status(
                **self._kind,
                name=self._node_name,
                body=body,
                field_manager=FIELD_MANAGER,
                _content_type="application/merge-patch+json",
                _request_timeout=REQUEST_TIMEOUT_S,
            )
        )

    async def warn(self, uid: str, reason: str, message: str) -> None:
        """A Warning event about the NodeCache."""
        now = datetime.now(UTC)
        event = {
            "metadata": {"generateName": f"{self._node_name[:200]}.", "namespace": EVENT_NAMESPACE},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": "NodeCache",
                "name": self._node_name,
                "uid": uid,
            },
            "type": "Warning",
            "reason": reason,
            "message": message[:1024],
            "source": {"component": FIELD_MANAGER, "host": self._node_name},
            "firstTimestamp": now.isoformat(timespec="seconds"),
            "lastTimestamp": now.isoformat(timespec="seconds"),
            "count": 1,
        }
        core: Any = client.CoreV1Api(self._api)
        call = core.create_namespaced_event_without_preload_content(
            namespace=EVENT_NAMESPACE, body=event, field_manager=FIELD_MANAGER, _request_timeout=REQUEST_TIMEOUT_S
        )
        response = await self._call(call)
        try:
            if response.status >= 300:
                self._answered(response.status)
                raise Unreachable(f"event {reason}: HTTP {response.status}")
        finally:
            response.release()

    async def review_token(self, token: str, audience: str) -> str:
        """User name of a valid token for this audience; empty for any other."""
        api: Any = client.AuthenticationV1Api(self._api)
        body = {"spec": {"token": token, "audiences": [audience]}}
        review = await self._call(api.create_token_review(body=body, _request_timeout=REQUEST_TIMEOUT_S))
        status = review.status
        if not status.authenticated or audience not in (status.audiences or ()):
            return ""
        return str(status.user.username or "")

    async def peer_addresses(self, namespace: str, service: str) -> list[str]:
        """IP addresses of the ready pods behind a Service."""
        api: Any = client.DiscoveryV1Api(self._api)
        found = await self._call(
            api.list_namespaced_endpoint_slice(
                namespace, label_selector=f"kubernetes.io/service-name={service}", _request_timeout=REQUEST_TIMEOUT_S
            )
        )
        return sorted(
            ip
            for item in found.items
            for endpoint in item.endpoints or ()
            if endpoint.conditions is None or endpoint.conditions.ready is not False
            for ip in endpoint.addresses
        )

    @property
    def _custom(self) -> Any:
        return client.CustomObjectsApi(self._api)

    @property
    def _kind(self) -> dict[str, str]:
        return {"group": names.GROUP, "version": names.VERSION, "plural": NodeCache.PLURAL}

    @property
    def _selector(self) -> dict[str, str]:
        return {"field_selector": f"metadata.name={self._node_name}"}

    async def _call(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await call
        except (aiohttp.ClientError, TimeoutError, OSError, ApiException) as exc:
            self._failed(exc)
            raise Unreachable(f"API server, NodeCache {self._node_name}: {_short(exc)}") from exc

    def _failed(self, exc: Exception) -> None:
        if isinstance(exc, ApiException):
            self._answered(exc.status)
        elif isinstance(exc, aiohttp.ClientConnectorCertificateError) and self._api is not None:
            certificate_refused(self._api, self._api.configuration)

    def _answered(self, status: int) -> None:
        if status == 401 and self._api is not None:
            token_refused(self._api.configuration)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a stream; ``readline`` would refuse the object of a full cache, which has megabytes."""
    rest = bytearray()
    while True:
        async with asyncio.timeout(SILENCE_S):
            chunk = await content.readany()
        if not chunk:
            return
        rest += chunk
        while (end := rest.find(b"\n")) >= 0:
            line = bytes(rest[:end])
            del rest[: end + 1]
            if line.strip():
                yield line
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")


def _read(obj: dict[str, Any]) -> NodeCache:
    try:
        return NodeCache.model_validate(obj)
    except ValidationError as exc:
        raise SpecInvalid(f"NodeCache cannot be read: {exc.errors(include_url=False)[0]['msg']}") from exc


def _short(exc: Exception) -> str:
    if isinstance(exc, ApiException):
        text = str(exc.body)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            # The server's own words, without the object around them.
            text = json.loads(text)["message"]
        return f"HTTP {exc.status} {exc.reason}: {text[:500]}"
    return f"{type(exc).__name__}: {exc}"
