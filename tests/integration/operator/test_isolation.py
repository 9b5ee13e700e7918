"""Isolation of instances on a real API server."""

from __future__ import annotations

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import POLICY
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, deployment, listing, trees, wait_gone, wait_ready
from tests.support.operator_run import OperatorRun


async def test_policies_come_with_instances_are_healed_and_go_with_them(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient
) -> None:
    ns = "isolation"
    plane.kubectl("create", "namespace", ns)
    run = await OperatorRun(operator_kubeconfig).start()
    try:
        apply(plane, ns, *trees(1), deployment(isolation={"mode": "Instance"}, replicas=2))
        await wait_ready(kube, ns)
        before = {name: body["spec"] for name, body in (await listing(kube, POLICY, ns)).items()}
        assert set(before) == {"class-1", "class-2"}
        plane.kubectl("patch", "networkpolicy", "class-2", "-n", ns, "--type=merge", '-p={"spec":{"egress":[{}]}}')

        async def healed() -> bool:
            return {name: body["spec"] for name, body in (await listing(kube, POLICY, ns)).items()} == before

        await eventually_async(healed, 20)
        apply(plane, ns, deployment(isolation={"mode": "Instance"}, replicas=1))
        await eventually_async(lambda: _names(kube, ns, {"class-1"}), 20)
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)
        assert await _names(kube, ns, set())
    finally:
        await run.kill()


async def _names(kube: KubeClient, ns: str, names: set[str]) -> bool:
    return set(await listing(kube, POLICY, ns)) == names
