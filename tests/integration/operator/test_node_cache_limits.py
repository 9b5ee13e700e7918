"""A NodeCache without a place for more layers, and a daemon of another protocol: both are reported at the owners."""

from __future__ import annotations

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import NODE_CACHE
from kigi.planning import layer_selection
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import (
    apply,
    deployment,
    digest,
    get_deployment,
    trees,
    wait_gone,
    wait_ready,
    wait_reported,
)
from tests.support.operator_run import OperatorRun

from .test_why import has, why

ON = {"nodeSelector": {"kubernetes.io/hostname": "node-0"}}


async def layers_of(kube: KubeClient, node: str) -> list[str]:
    cache = await kube.get(NODE_CACHE, None, node)
    assert cache is not None
    return [layer["digest"] for layer in cache["spec"].get("layers") or ()]


@pytest.mark.why("NodeCacheFull")
async def test_layers_that_do_not_fit_are_reported_at_their_deployment(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    ns: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layer_selection, "MAX_LAYERS", 3)
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(1), deployment(placement=ON))
        await wait_ready(kube, ns)
        await evict(actors, kube, "cleaned-0")
        apply(plane, ns, deployment(state="cleaned", placement=ON))
        await has(kube, ns, "NodeCacheFull")
        found = await why(plane, ns, "class", "NodeCacheFull")
        assert "1 of 1 layers do not fit into the NodeCache of node node-0" in found["message"]
        cache = await kube.get(NODE_CACHE, None, "node-0")
        assert cache is not None
        assert cache["spec"]["omitted"] == {"diskLayers": 1, "prefetchLayers": 0, "captures": 0}
        assert len(cache["spec"]["layers"]) == 3, "the running disk keeps its layers"
        monkeypatch.undo()
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)


@pytest.mark.why("VersionSkew")
async def test_a_daemon_of_another_protocol_gets_no_new_orders(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(1), deployment(placement=ON))
        await wait_ready(kube, ns)
        await evict(actors, kube, "cleaned-0")
        actors.hold_layers = True
        apply(plane, ns, deployment(state="cleaned", placement=ON))
        await has(kube, ns, "LayersWarming")
        # The daemon starts again in an older version.
        actors.protocols = [1]
        try:
            actors._enqueue("cache", (None, "node-0"))  # type: ignore[arg-type]
            await has(kube, ns, "VersionSkew")
            assert "upgrade the daemon" in (await why(plane, ns, "class", "VersionSkew"))["message"]
            before = await layers_of(kube, "node-0")
            apply(plane, ns, *trees(1), deployment("late", placement=ON))
            await eventually_async(lambda: refused(kube, ns, "late"), 30, "no new disk is placed there")
            assert await layers_of(kube, "node-0") == before
        finally:
            actors.protocols, actors.hold_layers = [2], False
        actors._enqueue("cache", (None, "node-0"))  # type: ignore[arg-type]
        await wait_ready(kube, ns)
        await wait_ready(kube, ns, "late")
        plane.kubectl("delete", "systemdeployment", "late", "-n", ns, "--wait=false")
        await wait_gone(plane, kube, ns)
    await wait_reported(kube, ["node-0"])


async def evict(actors: Actors, kube: KubeClient, image: str) -> None:
    """Another test may have left the layer on the node, where it serves without a place in the NodeCache."""
    actors.disks["node-0"].held.pop(digest(image), None)
    actors._enqueue("cache", (None, "node-0"))  # type: ignore[arg-type]
    await eventually_async(lambda: lacks(kube, "node-0", digest(image)), 20, "it is gone")


async def lacks(kube: KubeClient, node: str, layer: str) -> bool:
    cache = await kube.get(NODE_CACHE, None, node)
    return cache is not None and layer not in {each["digest"] for each in cache["status"]["layers"]}


async def refused(kube: KubeClient, ns: str, name: str) -> bool:
    body = await get_deployment(kube, ns, name)
    messages = [each["message"] for each in (body or {}).get("status", {}).get("conditions") or ()]
    return any("does not understand the operator's protocol" in message for message in messages)
