"""Gathers the members of a support archive with the caller's rights, bounded in size."""

from __future__ import annotations

import base64
import binascii
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.installation import (
    CSI_DRIVER,
    DAEMONS,
    DEFINITION,
    OPERATOR,
    POD,
    POLICY_BINDING,
    VALIDATING_POLICY,
    VM_POD,
)
from kigi.adapters.kubernetes.resources import (
    CAPTURE,
    CLAIM,
    CSI_NODE,
    DEPLOYMENT,
    EVENT,
    GRANT,
    IMAGE,
    INSTANCE,
    KUBEVIRT,
    LEASE,
    MACHINE,
    NODE,
    NODE_CACHE,
    PLUGIN,
    PREFETCH,
    QUOTA,
    REPOSITORY,
    RESET,
    SECRET,
    SYSTEM,
    VMI,
    VOLUME,
    Resource,
)
from kigi.cli.installation_facts import read_listing
from kigi.doctor.examine import examine
from kigi.doctor.facts import Facts
from kigi.doctor.projection import project, project_event
from kigi.doctor.redaction import SECRET_KEY, Redactor, values_within
from kigi.errors import KigiError

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.endpoint import Endpoint
    from kigi.adapters.kubernetes.session import KubeSession

MAX_BYTES = 128 * 2**20
"""All members together, before compression."""
MAX_MEMBER_BYTES = 16 * 2**20
MAX_LOG_BYTES = 4 * 2**20
"""End of the log of one container."""
MAX_EVENTS = 5000
"""The newest."""
OWN = (IMAGE, SYSTEM, DEPLOYMENT, INSTANCE, RESET, CAPTURE, PREFETCH, GRANT, REPOSITORY, QUOTA, NODE_CACHE)
MACHINES = (VOLUME, CLAIM, MACHINE, VMI)
CLUSTER = (NODE, CSI_NODE, CSI_DRIVER, KUBEVIRT, PLUGIN, DEFINITION, VALIDATING_POLICY, POLICY_BINDING)
IN_NAMESPACE = (OPERATOR, DAEMONS, POD, LEASE)


@dataclass(slots=True)
class Archive:
    """Members by name, each without secrets, and what is missing."""

    redactor: Redactor
    members: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, name: str, text: str) -> None:
        """A member; its end is cut off if it is too large, and it is left out if the archive is."""
        # Once more after serialization: an escaped or split value must not survive it.
        data = self.redactor.known(text).encode(errors="replace")
        if len(data) > MAX_MEMBER_BYTES:
            self.missing.append(f"{name}: all after the first {MAX_MEMBER_BYTES} bytes")
            data = data[:MAX_MEMBER_BYTES]
        if self.size_bytes + len(data) > MAX_BYTES:
            self.missing.append(f"{name}: the archive has its size limit of {MAX_BYTES} bytes")
            return
        self.size_bytes += len(data)
        self.members[name] = data

    def add_json(self, name: str, value: Any) -> None:
        """A member with JSON, redacted field by field."""
        self.add(name, json.dumps(self.redactor.tree(value), indent=1) + "\n")

    def packed(self, folder: str) -> bytes:
        """The members as a compressed tar file, below one folder."""
        missing = "\n".join(self.redactor.text(line) for line in self.missing) or "nothing"
        members = {"README.txt": README.encode(), "missing.txt": f"{missing}\n".encode(), **self.members}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size, info.mode = len(data), 0o600
                tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()


README = """Support archive of Kigi, written by 'kigi report'.

doctor.json     findings of 'kigi doctor'
versions.json   versions of kigi, Kubernetes, KubeVirt, operator and daemons
objects/        Kigi's objects, and parts of those that it depends on, by kind
events.json     events about Kigi's objects and pods, the newest last
logs/           ends of the logs of Kigi's pods
missing.txt     what could not be read, or is too large

It has no content of Secrets, no credentials, signed requests, cloud-init data, environment variables of pods, patches
and free texts of users: "<removed>" stands in their place. Names of objects, users, nodes and addresses are in it. Look
through it before you hand it on.
"""


def fill_archive(archive: Archive, kube: KubeSession, facts: Facts, progress: Callable[[str], object]) -> None:
    """Everything that the caller may read. Raises Unreachable if the API server does not answer any more."""
    archive.add_json("doctor.json", [asdict(finding) for finding in examine(facts)])
    archive.add_json("versions.json", versions_of(facts))
    for resource in (*OWN, *MACHINES, *CLUSTER, *IN_NAMESPACE):
        progress(f"reading {resource.plural}")
        namespace = facts.namespace if resource in IN_NAMESPACE else None
        _add_objects(archive, kube, facts, resource, namespace)
    _add_vm_pods(archive, facts)
    progress("reading events")
    _add_events(archive, kube, facts)
    for pod in facts.of(POD).items:
        progress(f"reading logs of {pod['metadata']['name']}")
        _add_logs(archive, kube, facts.namespace, pod)


def versions_of(facts: Facts) -> dict[str, Any]:
    """Versions of everything, as far as they are known."""
    kubevirt = [(body.get("status") or {}).get("observedKubeVirtVersion") for body in facts.of(KUBEVIRT).items]
    daemons = {
        body["metadata"]["name"]: ((body.get("status") or {}).get("daemon") or {}).get("version")
        for body in facts.of(NODE_CACHE).items
    }
    from kigi.doctor.workloads import operator_version

    found = {"kigi": facts.version, "operator": operator_version(facts) or None, "kubernetes": facts.kubernetes}
    return {**found, "kubevirt": kubevirt, "daemons": daemons, "time": facts.now.isoformat(timespec="seconds")}


def known_secrets(
    kube: KubeSession, namespace: str, endpoint: Endpoint, environment: Mapping[str, str]
) -> Iterator[str]:
    """Values that must not be in the archive: the caller's own credentials, and the Secrets in Kigi's namespace.

    The Secrets are read for this alone, and only if the caller may read them.
    """
    yield from filter(None, (endpoint.token, *(endpoint.password or ())))
    for part in endpoint.certificate or ():
        yield from values_within(part.decode(errors="replace"))
    for name, value in environment.items():
        if SECRET_KEY.search(name) and "/" not in value[:1]:
            yield value
    for body in read_listing(kube, SECRET, namespace).items:
        for value in (body.get("data") or {}).values():
            try:
                yield from values_within(base64.b64decode(value, validate=True).decode(errors="replace"))
            except (binascii.Error, ValueError):
                continue


def _add_objects(archive: Archive, kube: KubeSession, facts: Facts, resource: Resource, namespace: str | None) -> None:
    listing = facts.listings.get(resource)
    if listing is None:
        listing = read_listing(kube, resource, namespace)
    name = f"objects/{resource.plural}.json"
    if listing.unread:
        archive.missing.append(f"{name}: {listing.unread}")
    else:
        archive.add_json(name, [project(resource.kind, body) for body in listing.items])


def _add_vm_pods(archive: Archive, facts: Facts) -> None:
    listing, name = facts.of(VM_POD), "objects/pods-of-vms.json"
    if listing.unread:
        archive.missing.append(f"{name}: {listing.unread}")
    else:
        archive.add_json(name, [project(POD.kind, body) for body in listing.items])


def _add_events(archive: Archive, kube: KubeSession, facts: Facts) -> None:
    listing = read_listing(kube, EVENT, None)
    if listing.unread:
        rest = facts.of(EVENT)
        place = f"none of namespace {facts.namespace} either" if rest.unread else f"only those of {facts.namespace}"
        archive.missing.append(f"events.json: {listing.unread}; it has {place}")
        listing = rest
    ours = [event for event in listing.items if _is_ours(event, facts.namespace)]
    ours.sort(key=lambda event: str(event.get("eventTime") or event.get("deprecatedLastTimestamp") or ""))
    if len(ours) > MAX_EVENTS:
        archive.missing.append(f"events.json: all but the newest {MAX_EVENTS} of {len(ours)} events")
    archive.add_json("events.json", [project_event(event) for event in ours[-MAX_EVENTS:]])


def _is_ours(event: Mapping[str, Any], namespace: str) -> bool:
    regarding = event.get("regarding") or {}
    group = str(regarding.get("apiVersion") or "").partition("/")[0]
    return regarding.get("namespace") == namespace or group.endswith(("kigi.dev", "kubevirt.io"))


def _add_logs(archive: Archive, kube: KubeSession, namespace: str, pod: Mapping[str, Any]) -> None:
    name = pod["metadata"]["name"]
    statuses = {each["name"]: each for each in (pod.get("status") or {}).get("containerStatuses") or ()}
    for container in (pod.get("spec") or {}).get("containers") or ():
        restarts = int(statuses.get(container["name"], {}).get("restartCount") or 0)
        for previous in (False, True) if restarts else (False,):
            member = f"logs/{name}_{container['name']}{'.previous' if previous else ''}.log"
            try:
                data = kube.read_log(namespace, name, container["name"], limit_bytes=MAX_LOG_BYTES, previous=previous)
            except KigiError as exc:
                archive.missing.append(f"{member}: {exc}")
                continue
            archive.add(member, "\n".join(_redacted(archive.redactor, data.decode(errors="replace").splitlines())))


def _redacted(redactor: Redactor, lines: Iterable[str]) -> Iterator[str]:
    """Line by line, as a pattern may reach to the end of its text; of a private key its first line stays, redacted."""
    in_key = False
    for line in lines:
        starts, ends = "PRIVATE KEY-----" in line and "BEGIN" in line, "PRIVATE KEY-----" in line and "END" in line
        if in_key:
            in_key = not ends
            continue
        in_key = starts and not ends
        yield redactor.text(line)
