"""Gathers the facts that ``kigi doctor`` checks, with what the caller may read.

A kind that the caller may not read becomes a listing with the reason; only an API server that does not answer is an
error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.installation import (
    ACCESS_REVIEW,
    CSI_DRIVER,
    DAEMONS,
    DEFINITION,
    OPERATOR,
    POD,
    POLICY_BINDING,
    SELF_ACCESS_REVIEW,
    VALIDATING_POLICY,
    VM_POD,
)
from kigi.adapters.kubernetes.resources import (
    CSI_NODE,
    EVENT,
    KUBEVIRT,
    LEASE,
    NAMESPACE,
    NODE,
    NODE_CACHE,
    PLUGIN,
    QUOTA,
    REPOSITORY,
    Resource,
)
from kigi.cli.bucket_check import check_bucket
from kigi.cli.causes import CAUSES, REPOSITORY_CAUSES
from kigi.cli.cluster import Access
from kigi.doctor.facts import Body, Facts, Listing, RepositoryAnswer, RightsAnswer
from kigi.doctor.rights import ACCOUNT_RIGHTS, INSTALL_RIGHTS, KIGI, USE_RIGHTS, Right
from kigi.domain.names import GROUP
from kigi.errors import Forbidden, KigiError, NotFound

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

IN_CLUSTER = (
    DEFINITION,
    VALIDATING_POLICY,
    POLICY_BINDING,
    KUBEVIRT,
    PLUGIN,
    CSI_DRIVER,
    NODE,
    CSI_NODE,
    NODE_CACHE,
    REPOSITORY,
    QUOTA,
    VM_POD,
)
IN_NAMESPACE = (OPERATOR, DAEMONS, POD, LEASE, EVENT)
"""Read in Kigi's namespace."""
BUSY_S = 10.0
"""Time for which a request is repeated after 429, which the API server gives for seconds after a definition changed."""
SLOW_S = 2.0
"""An answer that took longer says too little about the server's clock."""


def gather_facts(
    kube: KubeSession, access: Access, namespace: str, environment: Mapping[str, str], *, asks_buckets: bool = True
) -> Facts:
    """Everything that the checks depend on. ``namespace``: Kigi's. Raises Unreachable and SpecInvalid.

    ``asks_buckets``: also send requests to the S3 servers, with the users of Kigi's Secrets.
    """
    kubernetes, ahead_s = _server(kube)
    listings = {resource: read_listing(kube, resource, None) for resource in IN_CLUSTER}
    listings |= {resource: read_listing(kube, resource, namespace) for resource in IN_NAMESPACE}
    listings[NAMESPACE] = _namespace(kube, namespace)
    facts = Facts(
        namespace=namespace,
        version=version("kigi"),
        now=datetime.now(UTC),
        server_ahead_s=ahead_s,
        served=_served(kube),
        kubernetes=kubernetes,
        listings=listings,
        remedies=_remedies(),
    )
    installed = facts.is_installed
    caller = _self_review(kube, access, namespace, USE_RIGHTS if installed else INSTALL_RIGHTS, used=installed)
    return replace(
        facts,
        accounts={name: _account(kube, name, namespace) for name in ACCOUNT_RIGHTS} if installed else {},
        caller=caller,
        repositories=_buckets(kube, access, namespace, listings[REPOSITORY].items, environment) if asks_buckets else {},
    )


def read_listing(kube: KubeSession, resource: Resource, namespace: str | None) -> Listing:
    """All objects of a kind, or why they are not known; ``namespace`` None: of the whole cluster."""
    try:
        return Listing(tuple(kube.list_all(resource, namespace)))
    except Forbidden:
        where = f"in namespace {namespace}" if namespace is not None and resource.namespaced else "in the whole cluster"
        kind = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
        return Listing(unread=f"you may not list {kind} {where}")
    except KigiError as exc:
        return Listing(unread=str(exc))


def _server(kube: KubeSession) -> tuple[str, float | None]:
    """Version of the API server, and the seconds that its clock is ahead of this machine's."""
    started = time.time()
    try:
        found = str(kube.ask("/version").get("gitVersion") or "")
    except (Forbidden, NotFound):
        found = ""
    return found, seconds_ahead(kube.server_time, started, time.time())


def _served(kube: KubeSession) -> bool | None:
    """Whether Kigi's API group exists; None if even that is forbidden."""
    try:
        kube.ask(f"/apis/{GROUP}")
    except NotFound:
        return False
    except Forbidden:
        return None
    return True


def seconds_ahead(date: str, started: float, ended: float) -> float | None:
    """Seconds that a server's header Date is ahead; None without one, or if the answer took too long.

    ``started``, ``ended``: seconds since the epoch. The header has whole seconds, and is cut, not rounded.
    """
    try:
        stated = parsedate_to_datetime(date).timestamp() + 0.5
    except (TypeError, ValueError):
        return None
    return stated - (started + ended) / 2 if 0 <= ended - started <= SLOW_S else None


def _namespace(kube: KubeSession, name: str) -> Listing:
    try:
        body = kube.get(NAMESPACE, None, name)
    except Forbidden:
        return Listing(unread=f"you may not get namespace {name}")
    return Listing((body,) if body is not None else ())


def _remedies() -> dict[str, str]:
    causes = {reason: cause.remedy for reason, cause in CAUSES.items() if cause.remedy}
    return causes | {reason: cause.remedy for reason, cause in REPOSITORY_CAUSES.items() if cause.remedy}


def _account(kube: KubeSession, account: str, namespace: str) -> RightsAnswer:
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    user = {"user": f"system:serviceaccount:{namespace}:{account}", "groups": groups}

    def ask(right: Right) -> bool:
        attributes = _attributes(right, namespace)
        answer = kube.create(ACCESS_REVIEW, {"metadata": {}, "spec": {**user, "resourceAttributes": attributes}})
        return bool((answer.get("status") or {}).get("allowed"))

    return _asked(ACCOUNT_RIGHTS[account], ask, "you may not create subjectaccessreviews.authorization.k8s.io")


def _self_review(
    kube: KubeSession, access: Access, namespace: str, rights: Iterable[Right], *, used: bool
) -> RightsAnswer:
    """Rights of the caller: to use Kigi (``used``) in the namespace of the kubeconfig, or to install it."""
    where = access.default_namespace() if used else ""

    def ask(right: Right) -> bool:
        attributes = _attributes(right, namespace)
        if used:
            attributes["namespace"] = where
        answer = kube.create(SELF_ACCESS_REVIEW, {"metadata": {}, "spec": {"resourceAttributes": attributes}})
        return bool((answer.get("status") or {}).get("allowed"))

    return _asked(rights, ask, "you may not create selfsubjectaccessreviews.authorization.k8s.io")


def _attributes(right: Right, namespace: str) -> dict[str, Any]:
    resource, _, subresource = right.resource.partition("/")
    optional = {
        "namespace": namespace if right.namespace == KIGI else right.namespace,
        "name": right.name,
        "subresource": subresource,
    }
    found = {"verb": right.verb, "group": right.group, "resource": resource}
    return found | {name: text for name, text in optional.items() if text}


def _asked(rights: Iterable[Right], ask: Callable[[Right], bool], refused: str) -> RightsAnswer:
    try:
        return RightsAnswer({right: ask(right) for right in rights})
    except Forbidden:
        return RightsAnswer(unread=refused)
    except KigiError as exc:
        return RightsAnswer(unread=str(exc))


def _buckets(
    kube: KubeSession, access: Access, namespace: str, bodies: Iterable[Body], environment: Mapping[str, str]
) -> dict[str, RepositoryAnswer]:
    return {body["metadata"]["name"]: check_bucket(kube, access, namespace, body, environment) for body in bodies}
