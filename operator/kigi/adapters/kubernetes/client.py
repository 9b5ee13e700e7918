"""The Kubernetes API: plain JSON in and out over one pooled client; every error becomes one of ours.

Writes pass two seams: ``guard`` (is this process still the leader?) before, and ``after_write`` (tests stop the
operator at the n-th) after.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from kigi.adapters.kubernetes.api_errors import ACCEPT, APPLY, JSON, JSON_PATCH, MERGE_PATCH, PAGE, translate
from kigi.adapters.kubernetes.pod_access import certificate_refused, load_pod_configuration, token_refused
from kigi.adapters.kubernetes.resources import Resource, resource_of
from kigi.domain.names import FIELD_MANAGER
from kigi.errors import Conflict, Unreachable, Waiting

Manifest = Mapping[str, Any]


class KubeClient:
    """Typed thin layer over ``kubernetes.aio``; use as an async context manager.

    ``concurrency`` bounds the requests under way at once, ``timeout_s`` each of them.
    """

    def __init__(self, configuration: Configuration, *, concurrency: int = 32, timeout_s: float = 30.0) -> None:
        configuration.connection_pool_maxsize = concurrency + 4
        configuration.retries = 0
        # aiohttp would look for ~/.netrc and the proxy's variables before each request; see load_configuration.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._api = ApiClient(configuration)
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(timeout_s, 5.0))
        self.guard: Callable[[], None] | None = None
        """Raises when this process may not write (any more)."""
        self.after_write: Callable[[int], None] | None = None
        self.writes = 0
        """Requests that changed something, answered so far."""

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection."""
        await self._api.close()  # type: ignore[no-untyped-call]

    # Reading.

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object; None if there is none."""
        return await self._send("GET", resource.path(namespace, name))

    async def list_all(self, resource: Resource, namespace: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every object of the kind that Kigi looks at, as the API server has them now; none if it has no such kind.

        ``namespace`` None: of all.
        """
        query = {"limit": str(PAGE)}
        if resource.selector:
            query["labelSelector"] = resource.selector
        token = ""
        while True:
            more = {"continue": token} if token else {}
            answer = await self._send("GET", resource.path(namespace), query={**query, **more})
            if answer is None:
                return
            for item in answer.get("items") or ():
                # Items of a list come without these two.
                item["kind"], item["apiVersion"] = resource.kind, resource.api_version
                yield item
            token = answer.get("metadata", {}).get("continue") or ""
            if not token:
                return

    # Writing.

    async def apply(self, manifest: Manifest, *, force: bool = True) -> dict[str, Any]:
        """Server-side apply under our field manager; the object as it then is.

        Without ``force``, Conflict if somebody else owns a field of it with another value.
        """
        resource = resource_of(manifest)
        meta = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        path = resource.path(meta.get("namespace"), meta["name"])
        return _found(await self._write("PATCH", path, manifest, APPLY, query), path)

    async def create(
        self, resource: Resource, manifest: Manifest, *, manager: str = FIELD_MANAGER, dry_run: bool = False
    ) -> dict[str, Any]:
        """A new object; Conflict if the name is taken. ``dry_run``: the API server says what it would do."""
        path = resource.path(manifest["metadata"].get("namespace"))
        query = {"fieldManager": manager, **({"dryRun": "All"} if dry_run else {})}
        return _found(await self._write("POST", path, manifest, JSON, query), path)

    async def replace(self, resource: Resource, manifest: Manifest, *, manager: str = FIELD_MANAGER) -> dict[str, Any]:
        """The whole object; Conflict if ``metadata.resourceVersion`` is not the newest."""
        meta = manifest["metadata"]
        path = resource.path(meta.get("namespace"), meta["name"])
        return _found(await self._write("PUT", path, manifest, JSON, {"fieldManager": manager}), path)

    async def json_patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        subresource: str = "",
    ) -> dict[str, Any] | None:
        """JSON patch; None if the object is gone, Conflict if a ``test`` of it fails."""
        path = resource.path(namespace, name, subresource)
        return await self._write("PATCH", path, operations, JSON_PATCH, {"fieldManager": FIELD_MANAGER})

    async def annotate(
        self, resource: Resource, namespace: str | None, name: str, annotations: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """Adds annotations; None if the object is gone."""
        body = {"metadata": {"annotations": annotations}}
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("PATCH", resource.path(namespace, name), body, MERGE_PATCH, query)

    async def write_status(
        self, resource: Resource, namespace: str | None, name: str, uid: str, status: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Replaces the whole status of the object of that uid; None if it is gone."""
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        return await self.json_patch(resource, namespace, name, operations, "status")

    async def set_finalizers(
        self, resource: Resource, namespace: str | None, body: Manifest, finalizers: Sequence[str]
    ) -> dict[str, Any] | None:
        """Replaces the finalizers of exactly this version; None if the object is gone, Conflict if it moved on."""
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
        """Deletes the object, of that uid if one is given.

        The object as it waits for its finalizers; None if it is gone, or if the name belongs to another uid.
        """
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            answer = await self._write("DELETE", resource.path(namespace, name), body, JSON, {})
        except Conflict:
            return None
        # An object that is gone at once is answered by a Status, or by itself as it last was.
        if answer is None or answer.get("kind") == "Status" or not answer["metadata"].get("finalizers"):
            return None
        return answer

    async def restart_machine(self, namespace: str, name: str, *, gracefully: bool = False) -> bool:
        """Asks KubeVirt to end the VM's instance and start a new one; False if it has no such service.

        The instance ends at once, or ``gracefully``, in the VM's own termination grace period. A restart that is
        under way already is done. Source: KubeVirt pkg/virt-api/rest/lifecycle.go.
        """
        path = f"/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachines/{name}/restart"
        try:
            options = {} if gracefully else {"gracePeriodSeconds": 0}
            await self._write("PUT", path, options, JSON, {}, missing_is_error=True)
        except Conflict:
            return True
        except (Waiting, Unreachable):
            return False
        return True

    async def vmi_request(self, namespace: str, name: str, verb: str, options: Mapping[str, Any] | None = None) -> None:
        """One of KubeVirt's requests to a VM's instance: pause, unpause, freeze, unfreeze.

        Answered when it is done. Conflict: the instance is not in a state for it. Waiting: there is no such instance.
        """
        path = f"/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}/{verb}"
        await self._write("PUT", path, options or {}, JSON, {}, missing_is_error=True)

    # The wire.

    async def _write(
        self,
        method: str,
        path: str,
        body: Any,
        content_type: str,
        query: Mapping[str, str],
        *,
        missing_is_error: bool = False,
    ) -> dict[str, Any] | None:
        if self.guard is not None:
            self.guard()
        answer = await self._send(method, path, body=body, content_type=content_type, query=query)
        if answer is None and missing_is_error:
            raise Waiting(f"{path}: the API server does not have it")
        self.writes += 1
        if self.after_write is not None:
            self.after_write(self.writes)
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any] | None:
        """The answer's JSON; None for 404."""
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": content_type, "Accept": ACCEPT, "User-Agent": FIELD_MANAGER}
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        try:
            async with self._slots:
                response = await self._api.rest_client.request(  # type: ignore[no-untyped-call]
                    method, url, headers=headers, body=body, _request_timeout=self._timeout
                )
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            if isinstance(exc, aiohttp.ClientConnectorCertificateError):
                certificate_refused(self._api, self._configuration)
            raise Unreachable(f"{method} {path}: the API server does not answer: {exc or type(exc).__name__}") from exc
        try:
            answer: dict[str, Any] = json.loads(text) if text else {}
        except ValueError:
            answer = {"message": text[:500].decode(errors="replace")}
        if response.status < 300:
            return answer
        if response.status == 404:
            if method in ("POST", "PUT") or content_type == APPLY:
                raise Waiting(f"{method} {path}: {answer.get('message', 'not found')}")
            return None
        if response.status == 401:
            token_refused(self._configuration)
        raise translate(response.status, answer, f"{method} {path}")


def _found(answer: dict[str, Any] | None, path: str) -> dict[str, Any]:
    if answer is None:
        raise Waiting(f"{path}: the API server does not have it")
    return answer


async def load_configuration(kubeconfig: str | None = None, context: str | None = None) -> Configuration:
    """Access of this pod, or of ``kubeconfig`` (else $KUBECONFIG, else ~/.kube/config) outside of a cluster.

    ``context`` None: the kubeconfig's current one.
    """
    configuration = Configuration()
    if (
        kubeconfig is None
        and context is None
        and "KUBERNETES_SERVICE_HOST" in os.environ
        and "KUBECONFIG" not in os.environ
    ):
        load_pod_configuration(configuration)
        return _with_proxy(configuration)
    path = os.path.expanduser(kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=path, context=context, client_configuration=configuration, persist_config=False
    )
    return _with_proxy(configuration)


def _with_proxy(configuration: Configuration) -> Configuration:
    """With the proxy that the environment names for the API server, if the kubeconfig names none."""
    server = urlsplit(configuration.host)
    if not configuration.proxy and not proxy_bypass(server.hostname or ""):
        configuration.proxy = getproxies().get(server.scheme)
    return configuration
