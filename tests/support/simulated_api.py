"""The API server as a simulation in virtual time: versions, watches, finalizers, selectors, patches and preconditions.

It answers the requests of the real client (``KubeClient``) in memory, and can be restored from a backup, as etcd can.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from kigi.adapters.kubernetes.api_requests import APPLY, JSON_PATCH, MERGE_PATCH, Request
from kigi.adapters.kubernetes.resources import WATCHED
from kigi.domain.merge_patch import merge_patch

Object = dict[str, Any]
Key = tuple[str, str | None, str]
"""Plural, namespace and name."""
NO_STATUS_SUBRESOURCE = ("virtualmachineinstances", "leases", "events", "secrets", "configmaps")
PLURALS = {resource.plural: resource for resource in WATCHED}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Event:
    """A change: the object before and after; None: it does not exist."""

    version: int
    key: Key
    old: Object | None
    new: Object | None
    last: Object
    """The object at its last version, which a deletion raises once more."""


@dataclass
class Backup:
    """Objects and version at one moment."""

    objects: dict[Key, Object]
    version: int


@dataclass
class SimulatedApi:
    """``now`` gives the time of the server as text. ``wrote`` is called after each change with its event."""

    now: Callable[[], str]
    objects: dict[Key, Object] = field(default_factory=dict)
    version: int = 1000
    history: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    """By plural."""
    epoch: int = 0
    """Number of restores: watches of an earlier epoch have ended."""
    down_until: float = 0.0
    """Virtual time until which no API server runs."""
    wrote: list[Callable[[Event], None]] = field(default_factory=list)
    _uids: int = 0
    _news: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    # Backups.

    def backup(self) -> Backup:
        """What etcdctl snapshot saves."""
        return Backup(copied(self.objects), self.version)

    def restore(self, backup: Backup) -> None:
        """All objects, and the version, are as they were: later changes are lost, and versions are used once more."""
        self.objects, self.version = copied(backup.objects), backup.version
        self.history.clear()
        self.epoch += 1
        for news in self._news.values():
            news.set()
        self._news.clear()

    # Requests.

    def handle(self, request: Request) -> Object:
        """The answer. Raises Refused."""
        plural, namespace, name, sub = split_path(request.path)
        if request.path.startswith("/apis/subresources."):
            raise Refused(503, "no such service")
        if plural == "events":
            return dict(request.body)
        body = copied(request.body)
        match request.method:
            case "GET" if name:
                return copied(self._present((plural, namespace, name)))
            case "GET":
                selector = dict(parse_qsl(request.target.partition("?")[2])).get("labelSelector", "")
                items = [copied(each) for each in self.select(plural, namespace, selector)]
                return {"metadata": {"resourceVersion": str(self.version)}, "items": items}
            case "POST":
                return self._create((plural, namespace, body["metadata"]["name"]), body)
            case "PUT":
                return self._replace((plural, namespace, name), body)
            case "PATCH":
                return self._patch((plural, namespace, name), sub, body, request)
            case "DELETE":
                return self._delete((plural, namespace, name), body or {})
        raise Refused(405, "no such method")

    def select(self, plural: str, namespace: str | None, selector: str) -> Iterator[Object]:
        """Objects of a kind with these labels."""
        for (kind, where, _), body in self.objects.items():
            if kind == plural and namespace in (None, where) and matches(body, selector):
                yield body

    async def watch(self, plural: str, namespace: str | None, selector: str, version: int) -> AsyncIterator[Object]:
        """Events after that version, whose objects stay as they are. Raises Refused for a version it does not have."""
        epoch = self.epoch
        if version > self.version:
            raise Refused(504, "Too large resource version")
        history = self.history[plural]
        place = next((n for n, event in enumerate(history) if event.version > version), len(history))
        while epoch == self.epoch:
            while place < len(history):
                event = history[place]
                place += 1
                if namespace in (None, event.key[1]):
                    found = _seen(event, selector)
                    if found is not None:
                        yield found
                    if epoch != self.epoch:
                        raise Refused(410, "the server has been restored")
            await self._news[plural].wait()
        raise Refused(410, "the server has been restored")

    # Changes.

    def _present(self, key: Key) -> Object:
        if key not in self.objects:
            raise Refused(404, f"{key} not found")
        return self.objects[key]

    def _create(self, key: Key, body: Object) -> Object:
        if key in self.objects:
            raise Refused(409, f"{key} exists")
        self._uids += 1
        if key[0] in PLURALS:
            body |= {"kind": PLURALS[key[0]].kind, "apiVersion": PLURALS[key[0]].api_version}
        created = {"uid": f"{self.epoch}-{self._uids:08}", "creationTimestamp": self.now(), "generation": 1}
        body["metadata"] = {**body["metadata"], **created}
        return self._store(key, body)

    def _replace(self, key: Key, body: Object) -> Object:
        present = self._present(key)
        wanted = body["metadata"].get("resourceVersion")
        if wanted is not None and wanted != present["metadata"]["resourceVersion"]:
            raise Refused(409, "the object has been modified")
        return self._update(key, "", body)

    def _patch(self, key: Key, sub: str, patch: Any, request: Request) -> Object:
        if request.content_type == APPLY and key not in self.objects:
            return self._create(key, patch)
        present = copied(self._present(key))
        match request.content_type:
            case content_type if content_type == APPLY:
                if request.query.get("force") != "true":
                    raise Refused(409, "Apply failed with 1 conflict")
                metadata = merge_patch(present["metadata"], patch["metadata"])
                return self._update(key, sub, {**present, **patch, "metadata": metadata})
            case content_type if content_type == MERGE_PATCH:
                uid = patch.get("metadata", {}).get("uid")
                if uid not in (None, present["metadata"]["uid"]):
                    raise Refused(409, "Precondition failed: UID")
                return self._update(key, sub, merge_patch(present, patch))
            case content_type if content_type == JSON_PATCH:
                for operation in patch:
                    _operate(present, operation)
                return self._update(key, sub, present)
        raise Refused(415, "unknown patch")

    def _update(self, key: Key, sub: str, body: Object) -> Object:
        present = self._present(key)
        own_status = key[0] not in NO_STATUS_SUBRESOURCE
        if sub == "status":
            body = {**present, "status": body.get("status")}
        elif own_status:
            body = {**{k: v for k, v in body.items() if k != "status"}, **_part(present, "status")}
        kept = {k: v for k, v in present["metadata"].items() if k in ("uid", "creationTimestamp", "generation")}
        body["metadata"] = {**body["metadata"], **kept}
        if _without_version(body) == _without_version(present):
            return copied(present)
        if body.get("spec") != present.get("spec"):
            body["metadata"]["generation"] = present["metadata"].get("generation", 1) + 1
        if body["metadata"].get("deletionTimestamp") and not body["metadata"].get("finalizers"):
            return self._remove(key)
        return self._store(key, body)

    def _delete(self, key: Key, options: Object) -> Object:
        present = self._present(key)
        if options.get("preconditions", {}).get("uid") not in (None, present["metadata"]["uid"]):
            raise Refused(409, "Precondition failed: UID")
        if not present["metadata"].get("finalizers"):
            return self._remove(key)
        if present["metadata"].get("deletionTimestamp"):
            return copied(present)
        gone = copied(present)
        gone["metadata"]["deletionTimestamp"] = self.now()
        return self._store(key, gone)

    def _store(self, key: Key, body: Object) -> Object:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        old = self.objects.get(key)
        self.objects[key] = body
        self._note(Event(self.version, key, old, body, body))
        return copied(body)

    def _remove(self, key: Key) -> Object:
        self.version += 1
        old = self.objects.pop(key)
        last = copied(old)
        last["metadata"]["resourceVersion"] = str(self.version)
        last["metadata"].pop("finalizers", None)
        self._note(Event(self.version, key, old, None, last))
        return copied(last)

    def _note(self, event: Event) -> None:
        self.history[event.key[0]].append(event)
        self._news.pop(event.key[0], asyncio.Event()).set()
        for listener in list(self.wrote):
            listener(event)


def copied(value: Any) -> Any:
    """A deep copy of JSON's types."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def matches(body: Mapping[str, Any], selector: str) -> bool:
    """Whether the object has the labels: ``key``, or ``key=value``."""
    labels = body["metadata"].get("labels") or {}
    for each in filter(None, selector.split(",")):
        key, _, value = each.partition("=")
        if key not in labels or (value and labels[key] != value):
            return False
    return True


def _seen(event: Event, selector: str) -> Object | None:
    """The event as a watch with that selector sees it: an object that leaves the selection is deleted for it."""
    was = event.old is not None and matches(event.old, selector)
    is_now = event.new is not None and matches(event.new, selector)
    if not was and not is_now:
        return None
    kind = "DELETED" if not is_now else "MODIFIED" if was else "ADDED"
    return {"type": kind, "object": event.last}


def split_path(path: str) -> tuple[str, str | None, str, str]:
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = None
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    plural, name, sub = (*parts, "", "")[:3]
    return plural, namespace, name, sub


def _operate(body: Object, operation: Mapping[str, Any]) -> None:
    """One operation of RFC 6902, as far as the client sends it."""
    *parents, last = operation["path"].strip("/").split("/")
    place: Any = body
    for each in parents:
        place = place[int(each)] if isinstance(place, list) else place.setdefault(each, {})
    key: Any = int(last) if isinstance(place, list) else last
    present = place[key] if (not isinstance(place, list) and key in place) or isinstance(place, list) else None
    match operation["op"]:
        case "test" if present != operation["value"]:
            raise Refused(422, "the server rejected our request due to an error in our request")
        case "add" | "replace":
            place[key] = copied(operation["value"])
        case "remove":
            del place[key]


def _part(body: Object, name: str) -> Object:
    return {name: body[name]} if name in body else {}


def _without_version(body: Object) -> Object:
    return {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "resourceVersion"}}
