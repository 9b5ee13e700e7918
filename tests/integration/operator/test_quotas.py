"""SystemQuotas on a real API server: what exceeds a limit waits, and runs as soon as it fits."""

from __future__ import annotations

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import MACHINE, QUOTA
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import (
    GIB,
    apply,
    deployment,
    image,
    machine,
    quota,
    system,
    trees,
    wait_gone,
    wait_ready,
)
from tests.support.operator_run import OperatorRun

from .test_why import has, why


@pytest.mark.why("QuotaExceeded")
async def test_a_deployment_gets_the_instances_that_fit_and_the_others_after_the_limit_is_raised(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async def running(count: int) -> bool:
        return len([body async for body in kube.list_all(MACHINE, ns)]) == count

    apply(plane, ns, quota(ns, machines=5))
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment(replicas=3))
        await has(kube, ns, "QuotaExceeded")
        await eventually_async(lambda: running(4), 30, "two of three instances have two machines each")

        async def counted() -> bool:
            status = ((await kube.get(QUOTA, None, ns)) or {}).get("status") or {}
            return [one["used"]["machines"] for one in status.get("namespaces") or ()] == [4]

        await eventually_async(counted, 30)
        apply(plane, ns, quota(ns, machines=1))

        async def above() -> bool:
            status = ((await kube.get(QUOTA, None, ns)) or {}).get("status") or {}
            return any("above a limit" in c["message"] for c in status.get("conditions") or ())

        await eventually_async(above, 30)
        assert await running(4), "a lowered limit takes nothing away"
        apply(plane, ns, quota(ns, machines=6))
        await wait_ready(kube, ns)
        assert await running(6)
        await wait_gone(plane, kube, ns)
    plane.kubectl("delete", "systemquota", ns)


@pytest.mark.why("QuotaExceeded")
async def test_a_namespace_without_a_quota_leaves_a_part_of_the_nodes_to_others(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """Layers may use 1 TiB on each of two nodes; 1.6 TiB is more than three quarters of it."""
    vast = [image(f"{ns}-{size}", size_bytes=size * GIB, virtual_size_bytes=2048 * GIB) for size in (900, 700)]
    state = system("infected", None, [machine(f"m{n}", body["metadata"]["name"]) for n, body in enumerate(vast)])
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *vast, state, deployment())
        await has(kube, ns, "QuotaExceeded")
        reason = await why(plane, ns, "class", "QuotaExceeded")
        for words in (
            "wantedBytes",
            ns,
            "1.5 TiB",
            "no SystemQuota selects the namespace",
            "ask an administrator for a",
        ):
            assert words in reason["message"], reason
        apply(plane, ns, quota(ns, wantedBytes="2Ti"))
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)
    plane.kubectl("delete", "systemquota", ns)
