"""What the demo needs, checked before anything is created: each missing part with its remedy."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.installation import SELF_ACCESS_REVIEW
from kigi.adapters.kubernetes.resources import (
    DEPLOYMENT,
    IMAGE,
    KUBEVIRT,
    NAMESPACE,
    NODE,
    NODE_CACHE,
    REPOSITORY,
    RESET,
    SYSTEM,
    VMI,
    Resource,
)
from kigi.cli.cluster import Access, kigi_namespace, open_cluster
from kigi.cli.demo.exercise import longest_chain
from kigi.cli.demo.objects import ARCHITECTURE, namespace_name, namespace_object
from kigi.cli.reach import reachable
from kigi.cli.repositories import Chosen, RepositoryChoice
from kigi.domain.layers import digest_of_hex
from kigi.errors import Forbidden, KigiError, SpecInvalid

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.api.repositories import Repository

ARCHITECTURE_LABEL = "kubernetes.io/arch"
"""Of nodes; the kubelet sets it, and the operator places VMs by it."""
INSTALL = "see the page 'install' of Kigi's documentation"


class PrerequisitesMissing(SpecInvalid):
    """The cluster, the repository or the caller's rights are not ready for the demo."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the run is going to use."""

    run: str
    labels: Mapping[str, str]
    """Further labels of its namespace."""
    repository: RepositoryChoice
    access: Access
    """The cluster, and the run's namespace."""
    reads_guests: bool


@dataclass(frozen=True, slots=True)
class Site:
    """What the checks have found."""

    kubevirt: str
    """Version of KubeVirt."""
    nodes: int
    """Nodes with a daemon."""


def check(request: Request) -> Site:
    """Raises PrerequisitesMissing with one line for each missing part; creates nothing."""
    with open_cluster(request.access) as kube:
        missing = list(_missing_in_cluster(kube, request))
        site = Site(_kubevirt(kube)[0], len(_caches(kube))) if not missing else Site("", 0)
    if not missing:
        missing = list(_missing_in_repository(request))
    if missing:
        listed = missing[0] if len(missing) == 1 else "".join(f"\n- {line}" for line in missing)
        raise PrerequisitesMissing(f"the demo needs {listed}")
    return site


def _missing_in_cluster(kube: KubeSession, request: Request) -> Iterator[str]:
    try:
        if kube.get(IMAGE, None, "") is None:
            yield f"Kigi: the API server has no VMImageNodes; install it, {INSTALL}"
            return
    except Forbidden:
        pass  # named below, with the other rights
    missing = [right for right in _rights(request) if not _may(kube, *right)]
    for verb, resource, subresource in missing:
        yield f"the right to {verb} {'/'.join(filter(None, (resource.plural, subresource)))} in all namespaces"
    if missing:
        yield "an administrator, or one who grants these rights: the demo creates and deletes a namespace"
        return
    _, why_not = _kubevirt(kube)
    if why_not:
        yield f"KubeVirt: {why_not}"
    yield from _missing_nodes(kube)
    try:
        kube.create(NAMESPACE, namespace_object(request.run, request.labels), dry_run=True)
    except KigiError as exc:
        yield f"a namespace of its own: {exc}"


def _rights(request: Request) -> Iterator[tuple[str, Resource, str]]:
    """(verb, resource, subresource) of the calls of a run."""
    from kigi.adapters.kubernetes.resources import INSTANCE, POD

    for verb in ("create", "delete"):
        yield verb, NAMESPACE, ""
    for resource in (IMAGE, SYSTEM, DEPLOYMENT, INSTANCE):
        yield from (("patch", resource, ""), ("delete", resource, ""))
    yield from (("create", RESET, ""), ("reset", DEPLOYMENT, ""))
    yield from (("list", resource, "") for resource in (VMI, NODE_CACHE, NODE, KUBEVIRT))
    if request.reads_guests:
        yield from (("list", POD, ""), ("get", POD, "log"))


def _may(kube: KubeSession, verb: str, resource: Resource, subresource: str) -> bool:
    attributes = {"verb": verb, "group": resource.group, "resource": resource.plural, "subresource": subresource}
    answer = kube.create(SELF_ACCESS_REVIEW, {"metadata": {}, "spec": {"resourceAttributes": attributes}})
    return bool(answer["status"]["allowed"])


def _kubevirt(kube: KubeSession) -> tuple[str, str]:
    """Version, and what it lacks."""
    from kigi.adapters.kubevirt import kubevirt_state

    found = kubevirt_state(kube.list_all(KUBEVIRT))
    return found.version, "" if found.hook is not None else found.why_not


def _caches(kube: KubeSession) -> set[str]:
    """Names of the nodes whose daemon has reported."""
    return {body["metadata"]["name"] for body in kube.list_all(NODE_CACHE) if body.get("status")}


def _missing_nodes(kube: KubeSession) -> Iterator[str]:
    caches = _caches(kube)
    nodes: dict[str, Mapping[str, Any]] = {body["metadata"]["name"]: body for body in kube.list_all(NODE)}
    if not caches & set(nodes):
        place = kigi_namespace(kube)
        yield (
            f"a node with Kigi's daemon: no NodeCache has a status; kubectl get pods -n {place} -o wide shows the "
            f"daemons, kubectl logs -n {place} daemonset/kigi-node-cache why one does not start"
        )
        return
    architectures = {
        (nodes[name]["metadata"].get("labels") or {}).get(ARCHITECTURE_LABEL) for name in caches & set(nodes)
    }
    if ARCHITECTURE not in architectures:
        found = ", ".join(sorted(each or "none" for each in architectures))
        label = f"{ARCHITECTURE_LABEL}={ARCHITECTURE}"
        yield f"a node with the label {label}, as the guests are programs for it: it is {found}"


def _missing_in_repository(request: Request) -> Iterator[str]:
    try:
        chosen = choose_repository(request)
        repository = chosen.settings
        depth = longest_chain()
        if repository.max_depth < depth:
            yield f"a repository that takes chains of {depth} layers: its maxDepth is {repository.max_depth}"
            return
        with reachable(chosen, request.access) as reached:
            asyncio.run(_answers(reached))
    except KigiError as exc:
        yield f"a repository that you may write: {exc.reason}: {exc}"


def choose_repository(request: Request) -> Chosen:
    """The repository of the run: as ``--repository`` and the others choose, else the default of its namespace.

    The namespace need not exist. Raises as ``RepositoryChoice.chosen``.
    """
    import os

    choice = request.repository
    if choice.name is not None or choice.endpoint or os.environ.get("KIGI_S3_ENDPOINT"):
        return choice.chosen(request.access)
    from kigi.api.layer_repository import LayerRepositorySpec
    from kigi.planning.repositories import resolve_repository

    namespace = namespace_name(request.run)
    labels = {**request.labels, "kubernetes.io/metadata.name": namespace}
    with open_cluster(request.access) as kube:
        specs = {
            body["metadata"]["name"]: LayerRepositorySpec.model_validate(body["spec"])
            for body in kube.list_all(REPOSITORY)
        }
    name = resolve_repository(specs, namespace, labels, None, "--repository")
    return RepositoryChoice(name, None, choice.bucket).chosen(request.access)


async def _answers(repository: Repository) -> None:
    from kigi.adapters.s3 import open_repository

    async with open_repository(repository) as store:
        await store.size_of(digest_of_hex(hashlib.sha256(b"kigi demo").hexdigest()))
        await store.uploads()  # an answer to HEAD has no body, and so does not tell whether the bucket exists
