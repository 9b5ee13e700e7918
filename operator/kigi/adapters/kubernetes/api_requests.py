"""Requests to the Kubernetes API as values, for the blocking client and for the asynchronous one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from kigi.adapters.kubernetes.resources import Resource

JSON = "application/json"
ACCEPT = f"{JSON}, */*;q=0.5"
"""KubeVirt answers 406 to JSON alone where it answers without a body: pause, unpause, freeze."""
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
PAGE = 1000
"""Objects of one page of a listing. A page of VMs is about 5 MB of JSON."""
MAX_PAGE_BYTES = 16 * 2**20
"""A page with more is read again in smaller ones: whoever may create objects may make each of them 1.5 MB."""

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``path`` begins at the server's root and is not yet quoted."""

    method: str
    path: str
    body: Any = None
    content_type: str = JSON
    query: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def target(self) -> str:
        """Quoted path and query string."""
        path = quote(self.path, safe="/", errors="replace")
        return f"{path}?{urlencode(self.query)}" if self.query else path


def get_request(resource: Resource, namespace: str | None, name: str, *, from_memory: bool = False) -> Request:
    """Read one object. ``from_memory``: as the API server knows it, which need not be the newest; without etcd."""
    return Request("GET", resource.path(namespace, name), query={"resourceVersion": "0"} if from_memory else {})


def list_request(
    resource: Resource,
    namespace: str | None = None,
    *,
    page_token: str = "",
    field_selector: str = "",
    label_selector: str = "",
    limit: int = PAGE,
) -> Request:
    """Read one page of a kind; ``namespace`` None: of all namespaces. The kind's own label selector is the default."""
    optional = {
        "labelSelector": label_selector or resource.selector,
        "fieldSelector": field_selector,
        "continue": page_token,
    }
    query = {"limit": str(limit), **{key: value for key, value in optional.items() if value}}
    return Request("GET", resource.path(namespace), query=query)


def watch_request(
    resource: Resource,
    namespace: str | None,
    *,
    resource_version: str,
    duration_s: float,
    field_selector: str = "",
    bookmarks: bool = False,
) -> Request:
    """Stream the changes of a kind after ``resource_version``; the server ends the stream after ``duration_s``."""
    query = {
        "watch": "true",
        "resourceVersion": resource_version,
        "timeoutSeconds": str(int(duration_s)),
        **({"labelSelector": resource.selector} if resource.selector else {}),
        **({"fieldSelector": field_selector} if field_selector else {}),
        **({"allowWatchBookmarks": "true"} if bookmarks else {}),
    }
    return Request("GET", resource.path(namespace), query=query)


def create_request(resource: Resource, manifest: Manifest, *, manager: str, dry_run: bool = False) -> Request:
    """Create an object. ``dry_run``: the server validates it, and stores nothing."""
    query = {"fieldManager": manager, **({"dryRun": "All"} if dry_run else {})}
    return Request("POST", resource.path(manifest["metadata"].get("namespace")), manifest, JSON, query)


def replace_request(
    resource: Resource, manifest: Manifest, *, manager: str, subresource: str = "", dry_run: bool = False
) -> Request:
    """Replace the version of an object that ``metadata.resourceVersion`` names. ``dry_run``: nothing is stored."""
    meta = manifest["metadata"]
    path = resource.path(meta.get("namespace"), meta["name"], subresource)
    return Request("PUT", path, manifest, JSON, {"fieldManager": manager, **({"dryRun": "All"} if dry_run else {})})


def apply_request(
    resource: Resource, namespace: str | None, manifest: Manifest, *, manager: str, force: bool = True
) -> Request:
    """Server-side apply. ``force`` takes over fields of other managers; without it they are a 409."""
    query = {"fieldManager": manager, "force": "true" if force else "false"}
    return Request("PATCH", resource.path(namespace, manifest["metadata"]["name"]), manifest, APPLY, query)


def delete_request(resource: Resource, namespace: str | None, name: str, *, uid: str | None = None) -> Request:
    """Delete an object, and its dependents in the background. With ``uid``, an object with another uid is a 409."""
    body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
    if uid is not None:
        body["preconditions"] = {"uid": uid}
    return Request("DELETE", resource.path(namespace, name), body)


def items_of(resource: Resource, page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of a page; the server leaves ``kind`` and ``apiVersion`` out of them."""
    items: list[dict[str, Any]] = list(page.get("items") or ())
    for item in items:
        item["kind"], item["apiVersion"] = resource.kind, resource.api_version
    return items


def next_page_token(page: Mapping[str, Any]) -> str:
    """Token of the page after this one; empty after the last page."""
    return str((page.get("metadata") or {}).get("continue") or "")


def terminating_object(answer: dict[str, Any]) -> dict[str, Any] | None:
    """The object that waits for its finalizers after a DELETE; None if it is gone.

    The server answers the deletion of an object without finalizers with a Status, or with its last state.
    """
    if answer.get("kind") == "Status" or not answer["metadata"].get("finalizers"):
        return None
    return answer
