"""The cluster as the command line reads it: the kubeconfig's, with the rights of whoever calls."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes import endpoint as endpoints
from kigi.adapters.kubernetes import kubeconfig as configured
from kigi.adapters.kubernetes.resources import (
    CAPTURE,
    DEPLOYMENT,
    IMAGE,
    NODE_CACHE,
    PREFETCH,
    SYSTEM,
    Resource,
)
from kigi.adapters.kubernetes.session import KubeSession
from kigi.errors import Forbidden, SpecInvalid, Waiting

if TYPE_CHECKING:
    from kigi.mirror.store import Mirror

TREES = (IMAGE, SYSTEM, DEPLOYMENT, PREFETCH, CAPTURE)
"""Both trees, and what names their nodes."""
MANAGER = "kigi-cli"
"""Field manager of what people wish by a command."""


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster, and which namespace; None: as the kubeconfig says."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    all_namespaces: bool = False

    def default_namespace(self) -> str:
        """The one that is named, else that of the context, else ``default``; raises SpecInvalid for no kubeconfig."""
        if self.namespace is not None:
            return self.namespace
        return endpoints.pod_namespace() if self._is_pod() else self._context().namespace

    def scope(self) -> str | None:
        """The namespace to read; None: all."""
        return None if self.all_namespaces else self.default_namespace()

    def endpoint(self) -> endpoints.Endpoint:
        """Server and identity; raises SpecInvalid where no cluster is configured."""
        if self._is_pod():
            return endpoints.pod_endpoint(os.environ)
        return endpoints.endpoint_of(self._context())

    def _is_pod(self) -> bool:
        return self.kubeconfig is None and self.context is None and endpoints.is_pod(os.environ)

    def _context(self) -> configured.Context:
        return configured.select(_config(configured.files_of(self.kubeconfig, os.environ)), self.context)


_config = functools.cache(configured.read_config)


def open_cluster(access: Access | None = None, *, manager: str = MANAGER) -> KubeSession:
    """A client, to be used as a context manager; raises SpecInvalid where no cluster is configured."""
    access = access or Access()
    return KubeSession(access.endpoint(), manager=manager, renew=access.endpoint)


def listed(kube: KubeSession, resource: Resource, namespace: str | None) -> Iterator[dict[str, Any]]:
    """Every object of the kind, of one namespace or of all; raises Forbidden with the right that is missing."""
    scope = namespace if resource.namespaced else None
    try:
        yield from kube.list_all(resource, scope)
    except Forbidden as exc:
        raise Forbidden(lacking([resource], scope)) from exc


def read_mirror(
    kube: KubeSession,
    kinds: Iterable[Resource] = TREES,
    namespace: str | None = None,
    *,
    optional: Iterable[Resource] = (NODE_CACHE,),
) -> Mirror:
    """The objects of these kinds, of one namespace or of all, as the API server has them now.

    An ``optional`` kind that the caller may not read is left out; raises Forbidden with all others that are refused.
    """
    from kigi.mirror.store import Mirror

    mirror, refused = Mirror(), []
    for resource in kinds:
        try:
            for body in listed(kube, resource, namespace):
                mirror.put(resource.kind, body)
        except Forbidden:
            if resource not in optional:
                refused.append(resource)
        except Waiting as exc:
            raise SpecInvalid(f"{resource.plural}: {exc}; is Kigi installed in this cluster?") from exc
    if refused:
        raise Forbidden(lacking(refused, namespace))
    return mirror


def lacking(refused: Iterable[Resource], namespace: str | None) -> str:
    """Which rights are missing, and the role that gives them."""
    kinds = ", ".join(f"{kind.plural}.{kind.group}" if kind.group else kind.plural for kind in refused)
    if namespace is None:
        return f"you need the right to list these in all namespaces: {kinds}; ClusterRole kigi-cluster-view gives it"
    return f"you need the right to list these in namespace {namespace}: {kinds}; ClusterRole kigi-view gives it"
