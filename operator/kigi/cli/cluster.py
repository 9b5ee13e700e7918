"""The cluster as the command line reads it: the kubeconfig's, with the rights of whoever calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from kubernetes.aio.config import ConfigException

from kigi.adapters.kube import KubeClient, load_configuration
from kigi.adapters.resources import DEPLOYMENT, IMAGE, SYSTEM, Resource
from kigi.errors import SpecInvalid
from kigi.mirror import Mirror

TREES = (IMAGE, SYSTEM, DEPLOYMENT)


@asynccontextmanager
async def open_cluster(kubeconfig: str | None = None) -> AsyncIterator[KubeClient]:
    """A client for the time of the context; raises SpecInvalid where no cluster is configured."""
    try:
        configuration = await load_configuration(kubeconfig)
    except (ConfigException, OSError) as exc:
        raise SpecInvalid(f"no cluster is configured: {exc}") from exc
    async with KubeClient(configuration) as client:
        yield client


async def read_mirror(kube: KubeClient, kinds: Iterable[Resource] = TREES, namespace: str | None = None) -> Mirror:
    """The objects of these kinds, of one namespace or of all, as the API server has them now."""
    mirror = Mirror()
    for resource in kinds:
        async for body in kube.list_all(resource, namespace):
            mirror.put(resource.kind, body)
    return mirror
