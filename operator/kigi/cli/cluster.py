"""The cluster that the kubeconfig names, with the rights of the calling user."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import (
    CAPTURE,
    CLUSTER_ROLE_BINDING,
    DEPLOYMENT,
    HEARTBEAT,
    IMAGE,
    INSTANCE,
    NAMESPACE,
    NODE_CACHE,
    PREFETCH,
    QUOTA,
    REPOSITORY,
    SYSTEM,
    Resource,
)
from kigi.errors import Forbidden, SpecInvalid, Waiting

if TYPE_CHECKING:
    from datetime import datetime

    from kigi.adapters.kubernetes.endpoint import Endpoint
    from kigi.adapters.kubernetes.kubeconfig import Config, Context
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.mirror.store import Mirror

TREES = (IMAGE, SYSTEM, DEPLOYMENT, INSTANCE, PREFETCH, CAPTURE)
"""Both trees, and the kinds that name their nodes."""
SETTINGS = (NAMESPACE, REPOSITORY, QUOTA)
"""Kinds that decide which repositories and how much a namespace may use."""
EDIT_MANAGER = "kigi-cli"
"""Field manager of fields that a verb edits in an existing object."""
PUBLISH_MANAGER = "kigi"
"""Field manager of objects that a verb publishes or imports."""
TIMEOUT_S = 30.0
KIGI_NAMESPACE = "kigi-system"
"""Kigi's namespace in the manifests; an overlay may set another one."""
OPERATOR_BINDING = "kigi-operator"
"""The ClusterRoleBinding whose subject is the operator's account, in Kigi's namespace."""


@dataclass(frozen=True, slots=True)
class Access:
    """A cluster and a namespace of it; None: as the kubeconfig's current context names them."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    all_namespaces: bool = False

    def default_namespace(self) -> str:
        """The given namespace, else the context's, else ``default``; raises SpecInvalid without a kubeconfig."""
        if self.namespace is not None:
            return self.namespace
        from kigi.adapters.kubernetes.endpoint import pod_namespace

        return pod_namespace() if self.is_pod() else self._context().namespace

    def scope(self) -> str | None:
        """The namespace to read; None: all."""
        return None if self.all_namespaces else self.default_namespace()

    def endpoint(self) -> Endpoint:
        """Server and identity; raises SpecInvalid if no cluster is configured."""
        from kigi.adapters.kubernetes.endpoint import endpoint_of, pod_endpoint

        return pod_endpoint(os.environ) if self.is_pod() else endpoint_of(self._context())

    def is_pod(self) -> bool:
        """Whether this process runs in a pod of that cluster, and uses the pod's account."""
        from kigi.adapters.kubernetes.endpoint import is_pod

        return self.kubeconfig is None and self.context is None and is_pod(os.environ)

    def _context(self) -> Context:
        from kigi.adapters.kubernetes.kubeconfig import files_of, select

        return select(_read_config(files_of(self.kubeconfig, os.environ)), self.context)


@functools.cache
def _read_config(files: tuple[Path, ...]) -> Config:
    from kigi.adapters.kubernetes.kubeconfig import read_config

    return read_config(files)


def open_cluster(
    access: Access | None = None,
    *,
    manager: str = EDIT_MANAGER,
    timeout_s: float = TIMEOUT_S,
    busy_s: float = 0.0,
) -> KubeSession:
    """A client, to be used as a context manager; raises SpecInvalid if no cluster is configured.

    ``timeout_s`` bounds each answer of the API server. Within ``busy_s``, a request that it refuses as too busy is
    sent again.
    """
    from kigi.adapters.kubernetes.session import KubeSession

    access = access or Access()
    return KubeSession(access.endpoint(), manager=manager, timeout_s=timeout_s, renew=access.endpoint, busy_s=busy_s)


def list_objects(kube: KubeSession, resource: Resource, namespace: str | None) -> Iterator[dict[str, Any]]:
    """Every object of the kind in one namespace, or in all (None); raises Forbidden with the missing right."""
    scope = namespace if resource.namespaced else None
    try:
        yield from kube.list_all(resource, scope)
    except Forbidden as exc:
        raise Forbidden(missing_rights([resource], scope)) from exc


def read_mirror(
    kube: KubeSession,
    kinds: Iterable[Resource] = TREES,
    namespace: str | None = None,
    *,
    optional: Iterable[Resource] = (NODE_CACHE,),
) -> Mirror:
    """The objects of these kinds in one namespace, or in all (None), as the API server has them now.

    An ``optional`` kind that the caller may not read is left out; raises Forbidden with all others that are refused.
    """
    from kigi.mirror.store import Mirror

    mirror, refused = Mirror(), []
    unread = set(SETTINGS)
    for resource in kinds:
        try:
            for body in list_objects(kube, resource, namespace):
                mirror.put(resource.kind, body)
            unread.discard(resource)
        except Forbidden:
            if resource not in optional:
                refused.append(resource)
        except Waiting as exc:
            raise SpecInvalid(f"{resource.plural}: {exc}; is Kigi installed in this cluster?") from exc
    if refused:
        raise Forbidden(missing_rights(refused, namespace))
    mirror.knows_settings = not unread
    return mirror


def read_heartbeats(kube: KubeSession, mirror: Mirror, now: datetime) -> None:
    """Which daemons report, into ``mirror``: all of them if the caller may not read Leases, or if there are none."""
    try:
        leases = list(kube.list_all(HEARTBEAT, kigi_namespace(kube)))
    except Forbidden:
        leases = []
    for lease in leases:
        mirror.heartbeats.put(lease, now)
    if not leases:
        for cache in mirror.caches:
            mirror.heartbeats.assume(cache.meta.name)


def kigi_namespace(kube: KubeSession, named: str | None = None) -> str:
    """Kigi's namespace: ``named``, else of KIGI_NAMESPACE, of the operator's account, or that of the manifests.

    Only an administrator of the cluster writes the binding that names the account.
    """
    if named := named or os.environ.get("KIGI_NAMESPACE"):
        return named
    try:
        binding = kube.get(CLUSTER_ROLE_BINDING, None, OPERATOR_BINDING) or {}
    except Forbidden:
        binding = {}
    return next((str(s["namespace"]) for s in binding.get("subjects") or () if s.get("namespace")), KIGI_NAMESPACE)


def missing_rights(refused: Iterable[Resource], namespace: str | None) -> str:
    """A message with the missing rights and the ClusterRole that grants them; ``namespace`` None: all namespaces."""
    kinds = ", ".join(f"{kind.plural}.{kind.group}" if kind.group else kind.plural for kind in refused)
    if namespace is None:
        return f"you need the right to list these in all namespaces: {kinds}; ClusterRole kigi-cluster-view gives it"
    return f"you need the right to list these in namespace {namespace}: {kinds}; ClusterRole kigi-view gives it"
