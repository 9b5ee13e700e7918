"""The Kubernetes API for operator and daemon: plain JSON in and out, asynchronous; every error becomes one of Kigi's.

Writes pass two seams: ``guard`` at the moment of sending (is this process still the leader, and for how long?), and
``after_write`` after them (tests stop the operator at the n-th).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from kubernetes.aio.client import Configuration

from kigi.adapters.kubernetes.api_requests import (
    JSON_PATCH,
    MAX_PAGE_BYTES,
    MERGE_PATCH,
    PAGE,
    Manifest,
    Request,
    apply_request,
    create_request,
    delete_request,
    get_request,
    items_of,
    list_request,
    next_page_token,
    replace_request,
    terminating_object,
    watch_request,
)
from kigi.adapters.kubernetes.connection import AnswerTooLong, ApiConnection, Guard
from kigi.adapters.kubernetes.resources import Resource, resource_of
from kigi.adapters.kubernetes.watch import WatchEvent, watch
from kigi.domain.names import FIELD_MANAGER
from kigi.domain.status_patch import status_operations
from kigi.errors import Conflict, NotFound, Unreachable, Waiting

WATCH_MARGIN_S = 15.0
"""Time after its duration in which the server must have ended a watch."""
SMALLER_PAGE = 8
"""Divisor of the page's size after one that is too long."""
SUBRESOURCES = "/apis/subresources.kubevirt.io/v1"


class KubeClient:
    """Use as an async context manager. ``manager`` is the field manager of its writes.

    ``concurrency`` bounds the requests in flight, ``timeout_s`` each of them.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        manager: str = FIELD_MANAGER,
        concurrency: int = 32,
        timeout_s: float = 30.0,
    ) -> None:
        self._connection = ApiConnection(
            configuration, user_agent=manager, concurrency=concurrency, timeout_s=timeout_s
        )
        self._manager = manager
        self.guard: Guard | None = None
        """Called before each write is sent: raises when this process may not write (any more)."""
        self.after_write: Callable[[int], None] | None = None
        """Called with the number of writes after each of them."""
        self.writes = 0
        """Answered requests that changed something."""

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection."""
        await self._connection.close()

    # Reading.

    async def get(
        self, resource: Resource, namespace: str | None, name: str, *, from_memory: bool = False
    ) -> dict[str, Any] | None:
        """The object; None if it does not exist. ``from_memory``: the API server need not ask etcd for the newest."""
        try:
            return await self._connection.send(get_request(resource, namespace, name, from_memory=from_memory))
        except NotFound:
            return None

    async def list_all(
        self, resource: Resource, namespace: str | None = None, *, label_selector: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """Every object of the kind that Kigi uses, page by page; nothing if the API server lacks the kind.

        ``namespace`` None: of all namespaces. ``label_selector`` replaces the kind's own.
        """
        token, limit = "", PAGE
        while True:
            request = list_request(resource, namespace, page_token=token, label_selector=label_selector, limit=limit)
            try:
                page = await self._connection.send(request, max_bytes=MAX_PAGE_BYTES if limit > 1 else None)
            except NotFound:
                return
            except AnswerTooLong:
                limit = max(1, limit // SMALLER_PAGE)
                continue
            for item in items_of(resource, page):
                yield item
            token, limit = next_page_token(page), min(PAGE, 2 * limit)
            if not token:
                return
            del page  # only one in memory

    async def list_version(
        self, resource: Resource, namespace: str | None = None, *, field_selector: str = "", limit: int = 1
    ) -> tuple[list[dict[str, Any]], str]:
        """The first ``limit`` objects of a kind, and the resourceVersion from which a watch of it misses nothing.

        Each object may have 1.5 MB, and they are read at once.
        """
        request = list_request(resource, namespace, field_selector=field_selector, limit=limit)
        page = await self._connection.send(request, max_bytes=MAX_PAGE_BYTES if limit > 1 else None)
        return items_of(resource, page), str(page["metadata"]["resourceVersion"])

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        duration_s: float,
        silence_s: float,
        field_selector: str = "",
        bookmarks: bool = False,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after ``resource_version``. The server ends the watch after ``duration_s``; then list again.

        Raises what ``watch.watch`` raises. Use ``contextlib.aclosing`` to end it early.
        """
        request = watch_request(
            resource,
            namespace,
            resource_version=resource_version,
            duration_s=duration_s,
            field_selector=field_selector,
            bookmarks=bookmarks,
        )
        limit_s = duration_s + WATCH_MARGIN_S
        async with aclosing(watch(self._connection, request, duration_s=limit_s, silence_s=silence_s)) as events:
            async for event in events:
                yield event

    async def token_keys(self) -> dict[str, Any]:
        """The keys with which the API server signs tokens of ServiceAccounts: a JSON Web Key Set."""
        return await self._connection.send(Request("GET", "/openid/v1/jwks"))

    # Writing.

    async def apply(self, manifest: Manifest, *, force: bool = True) -> dict[str, Any]:
        """Server-side apply; the object afterwards.

        Without ``force``, Conflict if another manager owns a field of it with another value.
        """
        resource, namespace = resource_of(manifest), manifest["metadata"].get("namespace")
        return await self._write(apply_request(resource, namespace, manifest, manager=self._manager, force=force))

    async def create(
        self, resource: Resource, manifest: Manifest, *, manager: str | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        """A new object; Conflict if the name is taken. ``dry_run``: nothing is stored."""
        return await self._write(create_request(resource, manifest, manager=manager or self._manager, dry_run=dry_run))

    async def replace(self, resource: Resource, manifest: Manifest, *, manager: str | None = None) -> dict[str, Any]:
        """Replaces the whole object; Conflict if ``metadata.resourceVersion`` is not the newest."""
        return await self._write(replace_request(resource, manifest, manager=manager or self._manager))

    async def json_patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        subresource: str = "",
    ) -> dict[str, Any] | None:
        """JSON patch; None if the object is gone, Conflict if a ``test`` operation fails."""
        return await self._patch(resource.path(namespace, name, subresource), operations, JSON_PATCH)

    async def merge_patch(
        self, resource: Resource, namespace: str | None, name: str, body: Manifest, subresource: str = ""
    ) -> dict[str, Any] | None:
        """Merge patch; None if the object is gone."""
        return await self._patch(resource.path(namespace, name, subresource), body, MERGE_PATCH)

    async def annotate(
        self, resource: Resource, namespace: str | None, name: str, annotations: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """Adds annotations; None if the object is gone."""
        return await self.merge_patch(resource, namespace, name, {"metadata": {"annotations": annotations}})

    async def write_status(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        uid: str,
        status: Mapping[str, Any],
        *,
        old: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Writes the status of the object with that uid, or what differs from the ``old`` one; None if it is gone.

        Conflict if the stored status is another one than ``old``.
        """
        operations = [{"op": "test", "path": "/metadata/uid", "value": uid}, *status_operations(old or {}, status)]
        return await self.json_patch(resource, namespace, name, operations, "status")

    async def write_conditions(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        uid: str,
        conditions: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any] | None:
        """Replaces the conditions in the status of the object with that uid; None if it is gone."""
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status/conditions", "value": list(conditions)},
        ]
        return await self.json_patch(resource, namespace, name, operations, "status")

    async def set_finalizers(
        self, resource: Resource, namespace: str | None, body: Manifest, finalizers: Sequence[str]
    ) -> dict[str, Any] | None:
        """Replaces the finalizers of exactly this version; None if the object is gone, Conflict if it has changed."""
        meta = body["metadata"]
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": meta["uid"]},
            {"op": "test", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
            {"op": "add", "path": "/metadata/finalizers", "value": list(finalizers)},
        ]
        return await self.json_patch(resource, namespace, meta["name"], operations)

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, uid: str | None = None
    ) -> dict[str, Any] | None:
        """Deletes the object; if ``uid`` is given, only the object with that uid.

        The object while it waits for its finalizers; None if it is gone, or if another object has the name.
        """
        try:
            return terminating_object(await self._write(delete_request(resource, namespace, name, uid=uid)))
        except (Conflict, NotFound):
            return None

    # KubeVirt's subresources.

    async def restart_machine(self, namespace: str, name: str, *, gracefully: bool = False) -> bool:
        """Asks KubeVirt to end the VM's instance and start a new one; False if the service is not available.

        ``gracefully`` grants the guest the VM's termination grace period; else the instance ends immediately. True as
        well if a restart is running already. Source: KubeVirt pkg/virt-api/rest/lifecycle.go.
        """
        path = f"{SUBRESOURCES}/namespaces/{namespace}/virtualmachines/{name}/restart"
        try:
            await self._write(Request("PUT", path, {} if gracefully else {"gracePeriodSeconds": 0}))
        except Conflict:
            return True
        except (Waiting, Unreachable):
            return False
        return True

    async def vmi_request(self, namespace: str, name: str, verb: str, options: Mapping[str, Any] | None = None) -> None:
        """Asks KubeVirt to pause, unpause, freeze or unfreeze a VM's instance, and waits until it has.

        Conflict: the instance is in no state for it. NotFound: there is no such instance.
        """
        path = f"{SUBRESOURCES}/namespaces/{namespace}/virtualmachineinstances/{name}/{verb}"
        await self._write(Request("PUT", path, options or {}))

    async def _patch(self, path: str, body: Any, content_type: str) -> dict[str, Any] | None:
        try:
            return await self._write(Request("PATCH", path, body, content_type, {"fieldManager": self._manager}))
        except NotFound:
            return None

    async def _write(self, request: Request) -> dict[str, Any]:
        answer = await self._connection.send(request, guard=self.guard)
        self.writes += 1
        if self.after_write is not None:
            self.after_write(self.writes)
        return answer
