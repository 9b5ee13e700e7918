"""SystemCaptures whose nodes, publishers, disks or names are in trouble; real API server, played daemons."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CAPTURE, CSI_NODE, IMAGE, NODE, NODE_CACHE, SYSTEM
from localcluster.controlplane import ControlPlane
from tests.integration.operator.test_captures import capture, drop, get, paused_vms, wait_done, wait_reason
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, condition, deployment, image, trees, wait_gone, wait_ready
from tests.support.operator_run import OperatorRun

POOL = {"nodeSelector": {"kubernetes.io/hostname": "captured"}}


@pytest.fixture
async def node(actors: Actors, kube: KubeClient) -> AsyncIterator[str]:
    """A node of the test's own, that it may lose."""
    await actors.add_node("captured")
    yield "captured"
    actors.hold_copies, actors.refuse_copies = False, {}
    actors.alive.discard("captured")
    await kube.delete(CSI_NODE, None, "captured")
    await kube.delete(NODE, None, "captured")


async def in_stage(kube: KubeClient, ns: str, stage: str) -> None:
    async def reached() -> bool:
        return condition(await get(kube, ns), "Complete").get("reason") == stage

    await eventually_async(reached, 30, f"the capture is {stage}")


async def made(kube: KubeClient, ns: str) -> set[str]:
    """Images and states under the captured name."""
    return {
        body["metadata"]["name"]
        for resource in (IMAGE, SYSTEM)
        async for body in kube.list_all(resource, ns)
        if body["metadata"]["name"].startswith("after")
    }


async def test_a_node_that_falls_silent_while_it_stores_is_waited_for(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, node: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(2), deployment(placement=POOL))
        await wait_ready(kube, ns)
        actors.hold_copies = True
        apply(plane, ns, capture())
        await in_stage(kube, ns, "Storing")
        assert not paused_vms(actors, ns)
    # To an operator that starts now, the daemon has been silent since its last heartbeat.
    actors.alive.discard(node)
    await actors._merge(NODE_CACHE, None, node, {"status": {"captures": []}}, "status")
    await actors.beat(node, "2020-01-01T00:00:00.000000Z")
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        assert "the capture continues" in await wait_reason(kube, ns, "CacheSilent")
        assert await made(kube, ns) == set()
        actors.hold_copies = False
        actors.alive.add(node)
        actors._enqueue("cache", (None, node))  # type: ignore[arg-type]
        status = (await wait_done(kube, ns))["status"]
        assert status["attempts"] == 1
        assert not status.get("blockedDisks")
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)
    assert not actors.violations


async def test_a_node_that_is_gone_ends_the_capture_and_leaves_nothing_half_done(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, node: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(2), deployment(placement=POOL))
        await wait_ready(kube, ns)
        actors.hold_copies = True
        apply(plane, ns, capture())
        await in_stage(kube, ns, "Storing")
        await actors.lose_node(node)
        assert "create another SystemCapture" in await wait_reason(kube, ns, "CopyLost")
        body = await get(kube, ns)
        assert condition(body, "Failed")["status"] == "True"
        assert condition(body, "Stalled")["status"] == "True"
        assert await made(kube, ns) == set()
        assert not paused_vms(actors, ns)
        apply(plane, ns, deployment(placement={"strategy": "Spread"}))
        await wait_ready(kube, ns, timeout_s=60)
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)
    assert not actors.violations


@pytest.mark.why("PublisherSilent")
async def test_what_a_node_refuses_beforehand_is_reported_while_the_vms_run(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, node: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(1), deployment(placement=POOL))
        await wait_ready(kube, ns)
        actors.pauses.clear()
        actors.refuse_copies = {"state": "Refused", "reason": "NoRoom", "message": "1.0 GiB more"}
        apply(plane, ns, capture())
        assert "1.0 GiB more" in await wait_reason(kube, ns, "NoRoom")
        assert not actors.pauses
        actors.refuse_copies = {"state": "Refused", "reason": "PublisherSilent", "message": "does not run"}
        await wait_reason(kube, ns, "PublisherSilent")
        assert not actors.pauses
        actors.refuse_copies = {}
        assert (await wait_done(kube, ns))["status"]["attempts"] == 1
        assert actors.pauses
        await drop(plane, ns)
        # Another one, above what the repository takes: final.
        actors.pauses.clear()
        actors.refuse_copies = {"state": "Refused", "reason": "ChainTooDeep", "message": "it takes 3 (maxDepth)"}
        apply(plane, ns, capture(target={"systemName": "deeper"}))
        said = await wait_reason(kube, ns, "ChainTooDeep")
        assert "VMImageNode infected-0" in said and "maxDepth" in said and "kigi flatten infected-0" in said
        assert condition(await get(kube, ns), "Failed")["status"] == "True"
        assert not actors.pauses
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)
    assert not actors.violations


async def test_what_a_capture_uses_is_not_deleted_before_it_has_ended(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, node: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(1), deployment(placement=POOL))
        await wait_ready(kube, ns)
        actors.hold_copies = True
        apply(plane, ns, capture())
        await in_stage(kube, ns, "Storing")
        for resource, name in ((SYSTEM, "infected"), (IMAGE, "infected-0")):
            await asyncio.to_thread(plane.kubectl, "delete", resource.plural, name, "-n", ns, "--wait=false")

            async def in_use(resource: Any = resource, name: str = name) -> bool:
                ready = condition(await kube.get(resource, ns, name) or {}, "Ready")
                return ready.get("reason") == "InUse" and "SystemCapture after" in ready["message"]

            await eventually_async(in_use, 20, f"{name} names its user")
        actors.hold_copies = False
        await wait_done(kube, ns)
        assert await made(kube, ns) == {"after", "after-m0"}
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)
    assert not actors.violations


async def test_a_name_that_is_taken_meanwhile_lets_nothing_be_written_before_it_is_free(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, node: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(2), deployment(placement=POOL))
        await wait_ready(kube, ns)
        actors.hold_copies = True
        apply(plane, ns, capture())
        await in_stage(kube, ns, "Storing")
        apply(plane, ns, image("after-m1"))
        actors.hold_copies = False
        assert "after-m1" in await wait_reason(kube, ns, "NameTaken")
        assert await made(kube, ns) == {"after-m1"}
        await drop(plane, ns)
        assert await kube.get(CAPTURE, ns, "after") is None
        assert await made(kube, ns) == {"after-m1"}
        await wait_gone(plane, kube, ns)
    assert not actors.violations
