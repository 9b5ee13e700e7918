"""Nodes of both trees are deleted on a real API server, by an operator that may die after any of its writes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import EVENT, IMAGE, SYSTEM, Resource
from kigi.domain.names import IN_USE_FINALIZER
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, condition, deployment, trees, wait_gone, wait_ready
from tests.support.operator_run import OperatorRun

from .test_cli import kigi_json


async def node(kube: KubeClient, resource: Resource, ns: str, name: str) -> dict[str, Any]:
    body = await kube.get(resource, ns, name)
    assert body is not None, f"{resource.kind} {name} is gone"
    return body


async def nodes_left(kube: KubeClient, ns: str) -> list[str]:
    return [
        body["metadata"]["name"]
        for resource in (IMAGE, SYSTEM)
        async for body in kube.list_all(resource)
        if body["metadata"]["namespace"] == ns
    ]


async def marked(kube: KubeClient, resource: Resource, ns: str) -> set[str]:
    return {
        body["metadata"]["name"]
        async for body in kube.list_all(resource)
        if body["metadata"]["namespace"] == ns and IN_USE_FINALIZER in body["metadata"].get("finalizers", ())
    }


@pytest.mark.why("InUse")
async def test_what_is_used_waits_says_for_whom_and_goes_by_itself(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment(state="restored"))
        await wait_ready(kube, ns)

        async def all_marked() -> bool:
            images = {"base", "role-0", "role-1", "infected-0", "infected-1", "cleaned-0"}
            return await marked(kube, IMAGE, ns) == images and len(await marked(kube, SYSTEM, ns)) == 3

        await eventually_async(all_marked, 20, "what is used is marked, and nothing else")
        plane.kubectl("delete", "vmimagenode", "cleaned-1", "role-1", "-n", ns, "--wait=false")
        plane.kubectl("delete", "systemnode", "restored", "-n", ns, "--wait=false")

        async def told(resource: Resource, name: str, *users: str) -> bool:
            ready = condition(await node(kube, resource, ns, name), "Ready")
            return ready["reason"] == "InUse" and all(user in ready["message"] for user in users)

        await eventually_async(lambda: told(SYSTEM, "restored", "SystemDeployment class"), 20)
        await eventually_async(lambda: told(IMAGE, "role-1", "VMImageNode infected-1"), 20)
        (said,) = await kigi_json(plane, "why", "kimg/role-1", "-n", ns, code=3)
        assert (said["reason"], said["remedy"]) == ("InUse", "delete the users that the message lists")
        assert await kube.get(IMAGE, ns, "cleaned-1") is None
        events = await kube.get(EVENT, ns, "")
        assert events is not None
        assert {item["regarding"]["name"] for item in events["items"] if item["reason"] == "InUse"} == {
            "restored",
            "role-1",
        }
        await wait_gone(plane, kube, ns)

        async def gone() -> bool:
            return await kube.get(SYSTEM, ns, "restored") is None

        await eventually_async(gone, 20, "the last user has gone, and so has the state")
        assert condition(await node(kube, IMAGE, ns, "role-1"), "Ready")["reason"] == "InUse"


@pytest.mark.parametrize("kill_after", [1, 2, 3])
async def test_the_whole_tree_goes_in_any_order_wherever_the_operator_dies(
    plane: ControlPlane, operator_kubeconfig: str, kube: KubeClient, ns: str, kill_after: int
) -> None:
    apply(plane, ns, *trees(2))
    every = [(body["kind"], body["metadata"]["name"]) for body in trees(2)]
    random.Random(kill_after).shuffle(every)
    async with OperatorRun(operator_kubeconfig):

        async def all_marked() -> bool:
            return len(await marked(kube, IMAGE, ns)) == 6 and len(await marked(kube, SYSTEM, ns)) == 2

        await eventually_async(all_marked, 20)
    for kind, name in every:
        plane.kubectl("delete", kind, name, "-n", ns, "--wait=false")
    deaths = 0

    async def gone() -> bool:
        return not await nodes_left(kube, ns)

    waiting = asyncio.create_task(eventually_async(gone, 90, "the whole tree is gone"))
    while not waiting.done():
        run = await OperatorRun(operator_kubeconfig, kill_after=kill_after).start()
        dying = asyncio.create_task(run.dead.wait())
        await asyncio.wait({waiting, dying}, return_when=asyncio.FIRST_COMPLETED)
        deaths += run.dead.is_set()
        dying.cancel()
        await run.kill()
    await waiting
    assert deaths >= 3


async def test_a_namespace_can_be_deleted_with_all_that_is_in_it(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        plane.kubectl("delete", "namespace", ns, "--wait=false")

        async def gone() -> bool:
            found = plane.kubectl("get", "namespace", ns, "--ignore-not-found", "-o", "name")
            return not found.strip()

        await eventually_async(gone, 90, "the namespace is gone")
        assert await nodes_left(kube, ns) == []
