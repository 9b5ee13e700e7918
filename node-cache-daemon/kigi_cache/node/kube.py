"""The API server as the daemon uses it: its NodeCache, events about it, and the peers' tokens, addresses and keys."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import ENDPOINT_SLICE, EVENT, HEARTBEAT, NODE_CACHE, TOKEN_REVIEW
from kigi.api.base import Metadata
from kigi.api.events import SERVE_DISKS, event, reference
from kigi.api.node_cache import NodeCache, NodeCacheStatus
from kigi.domain.heartbeat import build_lease, certificates_of, lease_name
from kigi.domain.node_protocol import PROTOCOLS
from kigi.errors import NotFound, SpecInvalid

FIELD_MANAGER = "kigi-cache"
REQUEST_TIMEOUT_S = 15.0
WATCH_S = 240.0
"""Duration of one watch; the listing after it is the resync."""
SILENCE_S = 100.0
"""The API server sends a bookmark each minute: a longer silence is a broken connection."""
CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """The NodeCache at one moment; ``cache`` None: it does not exist."""

    cache: NodeCache | None
    resource_version: str


class KubeApi:
    """Calls about one node. They raise what ``adapters/kubernetes/api_errors.py`` maps answers to.

    An object that does not validate is SpecInvalid. Call ``open`` before any other method.
    """

    def __init__(self, node_name: str, *, namespace: str = "kigi-system", silence_s: float = SILENCE_S) -> None:
        """``namespace``: of the node's Lease. ``silence_s``: a watch without an event for this time is broken."""
        self._node_name = node_name
        self._namespace = namespace
        self._silence_s = silence_s
        self._client: KubeClient | None = None

    async def open(self, kubeconfig: str | None = None) -> None:
        """Reads the access to the API server: of a kubeconfig, or of the pod if it is None."""
        configuration = await load_configuration(kubeconfig)
        self._client = KubeClient(
            configuration, manager=FIELD_MANAGER, concurrency=CONCURRENCY, timeout_s=REQUEST_TIMEOUT_S
        )

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()

    async def get(self) -> Seen:
        """The NodeCache now, with the resourceVersion that a watch can start from."""
        items, version = await self._kube.list_version(NODE_CACHE, field_selector=self._selector)
        return Seen(_read(items[0]) if items else None, version)

    async def watch(self, resource_version: str) -> AsyncGenerator[NodeCache | None, None]:
        """Later states of the NodeCache (None: deleted), for WATCH_S seconds. Then, or after an error, call ``get``."""
        events = self._kube.watch(
            NODE_CACHE,
            resource_version=resource_version,
            duration_s=WATCH_S,
            silence_s=self._silence_s,
            field_selector=self._selector,
            bookmarks=True,
        )
        async with aclosing(events):
            async for event in events:
                if event.type != "BOOKMARK":
                    yield None if event.type == "DELETED" else _read(event.object)

    async def write_status(self, status: NodeCacheStatus) -> None:
        """Replaces the whole status: lists are replaced, and a field that is None is cleared."""
        fields = {field.alias or name: None for name, field in NodeCacheStatus.model_fields.items()}
        body = {"status": fields | status.to_api()}
        if await self._kube.merge_patch(NODE_CACHE, None, self._node_name, body, "status") is None:
            raise NotFound(f"NodeCache {self._node_name} does not exist; its status is written when it does")

    async def renew_lease(self, owner: Metadata, certificates: Sequence[str] = ()) -> None:
        """Renews the node's Lease, or creates it. ``certificates``: fingerprints of what this daemon shows to peers."""
        now, cache = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), (owner.name, owner.uid)
        lease = build_lease(self._node_name, self._namespace, cache=cache, time=now, certificates=certificates)
        if await self._kube.merge_patch(HEARTBEAT, self._namespace, lease["metadata"]["name"], lease) is None:
            await self._kube.create(HEARTBEAT, lease)

    async def warn(self, uid: str, reason: str, message: str) -> None:
        """Writes a Warning event about the NodeCache, related to its Node."""
        body = event(
            reference(NODE_CACHE.api_version, NODE_CACHE.kind, None, self._node_name, uid),
            kind="Warning",
            reason=reason,
            note=message,
            action=SERVE_DISKS,
            time=datetime.now(UTC),
            suffix=secrets.token_hex(5),
            controller=FIELD_MANAGER,
            instance=self._node_name,
            related=reference("v1", "Node", None, self._node_name),
        )
        await self._kube.create(EVENT, body)

    async def review_token(self, token: str, audience: str) -> str:
        """User name of a valid token for this audience; empty for any other token."""
        review = {"metadata": {}, "spec": {"token": token, "audiences": [audience]}}
        status = (await self._kube.create(TOKEN_REVIEW, review)).get("status") or {}
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return ""
        return str((status.get("user") or {}).get("username") or "")

    async def token_keys(self) -> dict[str, Any]:
        """The keys that sign tokens of ServiceAccounts. Any ServiceAccount may read them."""
        return await self._kube.token_keys()

    async def peer_certificates(self, node: str) -> frozenset[str]:
        """Fingerprints of the certificates that a node has published; empty if it has none."""
        lease = await self._kube.get(HEARTBEAT, self._namespace, lease_name(node), from_memory=True)
        return certificates_of(lease, node) if lease is not None else frozenset()

    async def peer_addresses(self, namespace: str, service: str) -> dict[str, str]:
        """IP addresses of the ready pods of a Service, each with the node of its pod."""
        selector = f"kubernetes.io/service-name={service}"
        slices = [item async for item in self._kube.list_all(ENDPOINT_SLICE, namespace, label_selector=selector)]
        return {
            address: endpoint["nodeName"]
            for item in slices
            for endpoint in item.get("endpoints") or ()
            if endpoint.get("nodeName") and (endpoint.get("conditions") or {}).get("ready") is not False
            for address in endpoint["addresses"]
        }

    @property
    def _kube(self) -> KubeClient:
        if self._client is None:
            raise RuntimeError("KubeApi.open was not called")
        return self._client

    @property
    def _selector(self) -> str:
        return f"metadata.name={self._node_name}"


def _read(obj: Any) -> NodeCache:
    """The NodeCache; without its lists, which may have any form, if this daemon does not understand its protocol."""
    try:
        spec = obj["spec"]
        if spec["protocol"] not in PROTOCOLS:
            known = ("nodeName", "operatorProtocol", "protocol")
            obj = {**obj, "spec": {name: spec[name] for name in known}}
        return NodeCache.model_validate(obj)
    except (KeyError, TypeError) as exc:
        raise SpecInvalid(f"NodeCache cannot be read: no {exc}") from exc
    except ValidationError as exc:
        raise SpecInvalid(f"NodeCache cannot be read: {exc.errors(include_url=False)[0]['msg']}") from exc
