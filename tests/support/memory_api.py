"""The API server in memory, as far as reconcilers use it: versions, uids, finalizers and field owners."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import Resource
from kigi.domain.merge_patch import merge_patch
from kigi.errors import Conflict, KigiError, Unreachable
from kigi.runtime.ports import Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.fake_time import FakeTime
from tests.support.mirrors import new_mirror

ObjectKey = tuple[str, str | None, str]
DELETED = "2026-01-01T00:00:00Z"


class MemoryApi:
    """Objects by (kind, namespace, name), and the verbs of all writes in ``log``.

    ``fail`` gives the error to raise for a verb and a name, as often as it is listed.
    """

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, dict[str, Any]] = {}
        self.log: list[tuple[str, str, str]] = []
        """(verb, kind, name)."""
        self.fail: list[tuple[str, str, KigiError]] = []
        self.fail_reads = False
        self.serves_restarts = True
        self._version = 100

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Stores an object as another client would; a new version of it."""
        self._version += 1
        stored = copy.deepcopy(dict(body))
        meta = stored["metadata"]
        meta["resourceVersion"] = str(self._version)
        meta.setdefault("uid", f"uid-{self._version}")
        self.objects[stored["kind"], meta.get("namespace"), meta["name"]] = stored
        return copy.deepcopy(stored)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        if self.fail_reads:
            raise Unreachable("the API server does not answer")
        found = self.objects.get((resource.kind, namespace, name))
        return copy.deepcopy(found)

    async def create(self, resource: Resource, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self._write("create", resource.kind, manifest["metadata"].get("name", ""))
        if self._key(manifest) in self.objects:
            raise Conflict("already exists")
        return self.put({**manifest, "kind": resource.kind})

    async def apply(self, manifest: Mapping[str, Any], *, force: bool = True) -> dict[str, Any]:
        self._write("apply", manifest["kind"], manifest["metadata"]["name"])
        present = self.objects.get(self._key(manifest))
        if present is not None and not force:
            raise Conflict("fields of another manager")
        kept = (
            {key: present["metadata"][key] for key in ("uid", "finalizers") if key in present["metadata"]}
            if (present)
            else {}
        )
        return self.put({**manifest, "metadata": {**manifest["metadata"], **kept}})

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, uid: str | None = None
    ) -> dict[str, Any] | None:
        self._write("delete", resource.kind, name)
        body = self.objects.get((resource.kind, namespace, name))
        if body is None or (uid is not None and body["metadata"]["uid"] != uid):
            return None
        if body["metadata"].get("finalizers"):
            return self.put({**body, "metadata": {**body["metadata"], "deletionTimestamp": DELETED}})
        del self.objects[resource.kind, namespace, name]
        return None

    async def merge_patch(
        self, resource: Resource, namespace: str | None, name: str, body: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any] | None:
        self._write("patch", resource.kind, name)
        present = self.objects.get((resource.kind, namespace, name))
        return self.put(merge_patch(present, body)) if present is not None else None

    async def write_status(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        uid: str,
        status: Mapping[str, Any],
        *,
        old: Any = None,
    ) -> dict[str, Any] | None:
        self._write("status", resource.kind, name)
        present = self.objects.get((resource.kind, namespace, name))
        if present is None or present["metadata"]["uid"] != uid:
            return None
        return self.put({**present, "status": dict(status)})

    async def set_finalizers(
        self, resource: Resource, namespace: str | None, body: Mapping[str, Any], finalizers: Sequence[str]
    ) -> dict[str, Any] | None:
        meta = body["metadata"]
        self._write("finalizers", resource.kind, meta["name"])
        present = self.objects.get((resource.kind, namespace, meta["name"]))
        if present is None:
            return None
        found = present["metadata"]
        if (found["uid"], found["resourceVersion"]) != (meta["uid"], meta["resourceVersion"]):
            raise Conflict("the object has been modified")
        answer = self.put({**present, "metadata": {**found, "finalizers": list(finalizers)}})
        if found.get("deletionTimestamp") and not finalizers:
            del self.objects[resource.kind, namespace, meta["name"]]
        return answer

    async def restart_machine(self, namespace: str, name: str, *, gracefully: bool = False) -> bool:
        self._write("restart gracefully" if gracefully else "restart", "VirtualMachine", name)
        return self.serves_restarts

    def _write(self, verb: str, kind: str, name: str) -> None:
        self.log.append((verb, kind, name))
        for number, (failing, of, error) in enumerate(self.fail):
            if (failing, of) == (verb, name):
                del self.fail[number]
                raise error

    @staticmethod
    def _key(manifest: Mapping[str, Any]) -> ObjectKey:
        meta = manifest["metadata"]
        return (manifest.get("kind", ""), meta.get("namespace"), meta.get("name", ""))


def memory_ports(api: MemoryApi, time: FakeTime | None = None) -> Ports:
    """Ports on that API, with a clock of their own and an empty mirror."""
    time = time or FakeTime()
    queue = WorkQueue(clock=time, schedule=time.schedule, jitter=lambda: 1.0)
    return Ports(
        cast("KubeClient", api),
        new_mirror(),
        queue,
        Settings(identity="me", hook_image="kigi:dev"),
        clock=time,
        suffix=lambda: "0" * 16,
    )
