"""The Kubernetes API for operator and daemon: plain JSON in and out, asynchronous; every error becomes one of Kigi's.

Writes pass two seams: ``guard`` before (is this process still the leader?), and ``after_write`` after (tests stop the
operator at the n-th).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from kubernetes.aio.client import Configuration

from kigi.adapters.kubernetes.api_requests import (
    JSON_PATCH,
    MERGE_PATCH,
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
from kigi.adapters.kubernetes.connection import ApiConnection
from kigi.adapters.kubernetes.resources import Resource, resource_of
from kigi.adapters.kubernetes.watch import WatchEvent, watch
from kigi.domain.names import FIELD_MANAGER
from kigi.errors import Conflict, NotFound, Unreachable, Waiting

WATCH_MARGIN_S = 15.0
"""Time after its duration in which the server must have ended a watch."""
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
        self.guard: Callable[[], None] | None = None
        """Raises when this process may not write (any more)."""
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

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object; None if it does not exist."""
        try:
            return await self._connection.send(get_request(resource, namespace, name))
        except NotFound:
            return None

    async def list_all(
        self, resource: Resource, namespace: str | None = None, *, label_selector: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """Every object of the kind that Kigi uses, page by page; nothing if the API server lacks the kind.

        ``namespace`` None: of all namespaces. ``label_selector`` replaces the kind's own.
        """
        token = ""
        while True:
            request = list_request(resource, namespace, page_token=token, label_selector=label_selector)
            try:
                page = await self._connection.send(request)
            except NotFound:
                return
            for item in items_of(resource, page):
                yield item
            token = next_page_token(page)
            if not token:
                return

    async def list_version(
        self, resource: Resource, namespace: str | None = None, *, field_selector: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """The first page of a kind, and the resourceVersion from which a watch of it misses nothing."""
        page = await self._connection.send(list_request(resource, namespace, field_selector=field_selector))
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
        self, resource: Resource, namespace: str | None, name: str, uid: str, status: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Replaces the whole status of the object with that uid; None if it is gone."""
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
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
        if self.guard is not None:
            self.guard()
        answer = await self._connection.send(request)
        self.writes += 1
        if self.after_write is not None:
            self.after_write(self.writes)
        return answer
