"""The cluster as the command line reads it: the kubeconfig's, with the rights of whoever calls."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kubernetes.aio.config import ConfigException, list_kube_config_contexts

from kigi.adapters.kube import KubeClient, load_configuration
from kigi.adapters.resources import CAPTURE, DEPLOYMENT, IMAGE, NODE_CACHE, PREFETCH, SYSTEM, Resource
from kigi.errors import Forbidden, SpecInvalid, Waiting
from kigi.mirror import Mirror

TREES = (IMAGE, SYSTEM, DEPLOYMENT, PREFETCH, CAPTURE)
"""Both trees, and what names their nodes."""
OURS = (*TREES, NODE_CACHE)


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster, and which namespace; None: as the kubeconfig says."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    all_namespaces: bool = False

    def default_namespace(self) -> str:
        """The one that is named, else that of the context, else ``default``."""
        if self.namespace is not None:
            return self.namespace
        with contextlib.suppress(ConfigException, OSError):
            contexts, active = list_kube_config_contexts(config_file=self.kubeconfig)  # type: ignore[no-untyped-call]
            chosen = next((c for c in contexts if c["name"] == self.context), active) if self.context else active
            return str(chosen["context"].get("namespace") or "default")
        return "default"

    def scope(self) -> str | None:
        """The namespace to read; None: all."""
        return None if self.all_namespaces else self.default_namespace()


@asynccontextmanager
async def open_cluster(access: Access | None = None) -> AsyncIterator[KubeClient]:
    """A client for the time of the context; raises SpecInvalid where no cluster is configured."""
    access = access or Access()
    try:
        configuration = await load_configuration(access.kubeconfig, access.context)
    except (ConfigException, OSError) as exc:
        raise SpecInvalid(f"no cluster is configured: {exc}") from exc
    async with KubeClient(configuration) as client:
        yield client


async def read_mirror(
    kube: KubeClient,
    kinds: Iterable[Resource] = TREES,
    namespace: str | None = None,
    *,
    optional: Iterable[Resource] = (NODE_CACHE,),
) -> Mirror:
    """The objects of these kinds, of one namespace or of all, as the API server has them now.

    An ``optional`` kind that the caller may not read is left out.
    """
    mirror = Mirror()
    for resource in kinds:
        try:
            async for body in kube.list_all(resource, namespace if resource.namespaced else None):
                mirror.put(resource.kind, body)
        except Forbidden:
            if resource not in optional:
                raise
        except Waiting as exc:
            raise SpecInvalid(f"{resource.plural}: {exc}; is Kigi installed in this cluster?") from exc
    return mirror
