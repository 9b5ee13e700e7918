"""Removes what a run has created: VMs and disks, trees, namespace, and its layers in the repository.

The name of a run determines all its layers, so a run that was killed at any point is removed in the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import (
    DEPLOYMENT,
    IMAGE,
    INSTANCE,
    NAMESPACE,
    RESET,
    SYSTEM,
    VOLUME,
    Resource,
)
from kigi.cli.demo.objects import LABEL, namespace_name
from kigi.domain.layers import Digest, object_key
from kigi.domain.names import LABEL_NAMESPACE
from kigi.errors import KigiError

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.api.repositories import Repository

POLL_S = 0.5
TIMEOUT_S = 600.0
"""Time that one kind of objects gets to disappear: VMs shut down, and daemons delete overlays."""
ORDER = (DEPLOYMENT, INSTANCE, RESET, SYSTEM, IMAGE)
"""Users before what they use."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How to wait; a test passes its own clock."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    timeout_s: float = TIMEOUT_S


def find_runs(kube: KubeSession) -> list[str]:
    """Runs whose namespace exists, in order of their names."""
    labels = (body["metadata"].get("labels") or {} for body in kube.list_all(NAMESPACE))
    return sorted(each[LABEL] for each in labels if LABEL in each)


def remove_run(
    kube: KubeSession,
    run: str,
    remove_stored: Callable[[Mapping[str, Any]], list[str]],
    show: Callable[[str], None],
    wait: Wait | None = None,
) -> list[str]:
    """Removes everything of the run; what is left after the timeout, empty on success.

    ``remove_stored`` gets the namespace's body, deletes the layers, and returns what is left of them. The namespace
    goes last: as long as anything is left, ``--clean`` finds the run by it.
    """
    wait = wait or Wait()
    namespace = namespace_name(run)
    body = kube.get(NAMESPACE, None, namespace)
    if body is None:
        return []
    if (body["metadata"].get("labels") or {}).get(LABEL) != run:
        return [f"Namespace {namespace}: it has no label {LABEL}={run}, so the demo has not created it"]
    for resource in ORDER:
        show(f"deleting the {resource.plural}")
        if left := _remove_all(kube, resource, namespace, wait):
            return left
    show("deleting the layers")
    if left := remove_stored(body):
        return left
    show(f"deleting namespace {namespace}")
    kube.delete(NAMESPACE, None, namespace, uid=body["metadata"]["uid"])
    left = _wait_gone(lambda: [namespace] if kube.get(NAMESPACE, None, namespace) is not None else [], wait)
    return [f"Namespace {name}" for name in left] or [f"PersistentVolume {name}" for name in _volumes(kube, namespace)]


def _volumes(kube: KubeSession, namespace: str) -> list[str]:
    bodies = (body["metadata"] for body in kube.list_all(VOLUME))
    return [meta["name"] for meta in bodies if (meta.get("labels") or {}).get(LABEL_NAMESPACE) == namespace]


def _remove_all(kube: KubeSession, resource: Resource, namespace: str, wait: Wait) -> list[str]:
    # Children first: a node of a tree stays until its last user is gone.
    for body in reversed(list(kube.list_all(resource, namespace))):
        kube.delete(resource, namespace, body["metadata"]["name"], uid=body["metadata"]["uid"])
    left = _wait_gone(lambda: [body["metadata"]["name"] for body in kube.list_all(resource, namespace)], wait)
    return [f"{resource.kind} {namespace}/{name}" for name in left]


def _wait_gone(find: Callable[[], list[str]], wait: Wait) -> list[str]:
    deadline = wait.clock() + wait.timeout_s
    while (left := find()) and wait.clock() < deadline:
        wait.sleep(POLL_S)
    return left


def remove_layers(repository: Repository, digests: Iterable[Digest]) -> list[str]:
    """Deletes the layers and their unfinished uploads; one line for what could not be deleted, empty on success.

    No other image names these digests, as each run has its own.
    """
    try:
        asyncio.run(_remove_layers(repository, {object_key(digest) for digest in digests}))
    except KigiError as exc:
        return [f"layers in bucket {repository.bucket} of {repository.endpoint}: {exc}"]
    return []


async def _remove_layers(repository: Repository, keys: set[str]) -> None:
    from kigi.adapters.s3 import open_repository

    async with open_repository(repository) as store:
        for upload in await store.uploads():
            if upload.key in keys:
                await store.abort(upload)
        stored, _ = await store.objects()
        async with asyncio.TaskGroup() as group:
            for item in stored:
                if item.key in keys:
                    group.create_task(store.remove(item))
