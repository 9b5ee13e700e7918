"""KubeVirt 1.9 and gate Plugins on a real API server: the Plugin is there before any VM, and keeps its content."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import MACHINE, PLUGIN
from kigi.domain.names import HOOK_SIDECARS
from kigi.planning.plugin import NAME, build_plugin
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import (
    apply,
    condition,
    deployment,
    get_deployment,
    listing,
    trees,
    wait_gone,
    wait_ready,
)
from tests.support.kubevirt_crds import install_kubevirt_object, install_plugin_crd
from tests.support.operator_run import OperatorRun
from tests.support.why import explained


@pytest.fixture
def as_before(plane: ControlPlane) -> Iterator[None]:
    yield
    install_kubevirt_object(plane)
    plane.kubectl("delete", "crd", "plugins.plugin.kubevirt.io", "--ignore-not-found")


async def plugin_spec(kube: KubeClient) -> object:
    body = await kube.get(PLUGIN, None, NAME)
    return body and body["spec"]


@pytest.mark.timeout(240)
@pytest.mark.why("HookUnavailable", "HookPending")
async def test_gates_decide_how_disks_are_hooked(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, as_before: None
) -> None:
    ns = "plugin"
    plane.kubectl("create", "namespace", ns)
    install_kubevirt_object(plane, "v1.9.0", gates=())
    run = await OperatorRun(operator_kubeconfig).start()

    async def says(kind: str, status: str, reason: str, words: str = "") -> bool:
        found = condition(await get_deployment(kube, ns) or {}, kind)
        said = (found.get("status"), found.get("reason")) == (status, reason) and words in found["message"]
        return said and bool(explained(reason))

    async def has_plugin() -> bool:
        return await plugin_spec(kube) == build_plugin()["spec"]

    try:
        apply(plane, ns, *trees(1), deployment())
        await eventually_async(lambda: says("Stalled", "True", "HookUnavailable", "add feature gate Plugins"), 30)
        # The gate is on, and the API server does not have the kind: still no VM starts, and no action is necessary.
        install_kubevirt_object(plane, "v1.9.0", gates=("Plugins",))
        await eventually_async(lambda: says("Reconciling", "True", "HookPending", "no VM starts"), 30)
        assert not await listing(kube, MACHINE, ns)
        install_plugin_crd(plane)
        await wait_ready(kube, ns, timeout_s=90)
        assert await has_plugin()
        (machine,) = (await listing(kube, MACHINE, ns)).values()
        plugin = await kube.get(PLUGIN, None, NAME)
        assert plugin is not None
        assert plugin["metadata"]["creationTimestamp"] <= machine["metadata"]["creationTimestamp"]
        assert HOOK_SIDECARS not in machine["spec"]["template"]["metadata"].get("annotations", {})
        # Healed, whatever is done to it.
        patch = json.dumps({"spec": {"failureStrategy": "Ignore"}})
        plane.kubectl("patch", "plugins.plugin.kubevirt.io", NAME, "--type=merge", "-p", patch)
        await eventually_async(has_plugin, 30)
        plane.kubectl("delete", "plugins.plugin.kubevirt.io", NAME)
        await eventually_async(has_plugin, 30)
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)
    finally:
        await run.kill()
