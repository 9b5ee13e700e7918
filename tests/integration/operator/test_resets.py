"""Requests for resets with the operator on a real API server: carried out once, reported, deleted after their time."""

from __future__ import annotations

import asyncio
from typing import Any

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import INSTANCE, RESET, VOLUME
from kigi.domain import names
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, condition, deployment, trees, wait_gone, wait_ready
from tests.support.operator_run import OperatorRun

from .test_cli import kigi, kigi_json


def request(name: str, *instances: str, **spec: Any) -> dict[str, Any]:
    fields = {"deploymentRef": {"name": "class"}, "requestedBy": "alice", **spec}
    if instances:
        fields["instances"] = list(instances)
    return {"apiVersion": names.API_VERSION, "kind": "SystemReset", "metadata": {"name": name}, "spec": fields}


async def revisions(kube: KubeClient, ns: str) -> dict[tuple[str, str], int]:
    """Newest revision of each machine's boot disk."""
    found: dict[tuple[str, str], int] = {}
    async for body in kube.list_all(VOLUME):
        labels = body["metadata"]["labels"]
        if labels[names.LABEL_NAMESPACE] == ns and names.LABEL_DISK not in labels:
            slot = (labels[names.LABEL_INSTANCE], labels[names.LABEL_MACHINE])
            found[slot] = max(found.get(slot, 0), int(labels[names.LABEL_REVISION]))
    return found


async def ended(kube: KubeClient, ns: str, name: str, kind: str = "Complete") -> dict[str, Any]:
    body: dict[str, Any] = {}

    async def has_ended() -> bool:
        nonlocal body
        body = await kube.get(RESET, ns, name) or {}
        return condition(body, kind).get("status") == "True"

    await eventually_async(has_ended, 90, f"{name} is {kind}")
    return body


async def test_requests_reset_what_they_name_once_across_operators(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment(replicas=2))
        await wait_ready(kube, ns)
    apply(plane, ns, request("lunch", "1", machines=["m0"]))  # while no operator runs
    async with OperatorRun(operator_kubeconfig):
        status = (await ended(kube, ns, "lunch"))["status"]
        assert (status["targets"], status["succeeded"], status["summary"]) == (1, 1, "1/1")
        one = {("1", "m0"): 2, ("1", "m1"): 1, ("2", "m0"): 1, ("2", "m1"): 1}
        assert await revisions(kube, ns) == one
        body = await kube.get(INSTANCE, ns, "class-1") or {}
        entry = body["status"]["history"][-1]
        assert (entry["action"], entry["requestName"], entry["requestedBy"]) == ("Reset", "lunch", "alice")
        assert entry["machines"] == ["m0"]
        apply(plane, ns, request("lunch", "1", machines=["m0"]))
        apply(plane, ns, request("all"))
        await ended(kube, ns, "all")
        assert await revisions(kube, ns) == {slot: revision + 1 for slot, revision in one.items()}
        plane.kubectl("delete", "systemreset", "--all", "-n", ns)
    async with OperatorRun(operator_kubeconfig):
        await wait_ready(kube, ns)
        assert await revisions(kube, ns) == {slot: revision + 1 for slot, revision in one.items()}
        await wait_gone(plane, kube, ns)
    assert not actors.violations


async def test_a_request_with_an_unknown_name_resets_nothing_and_a_finished_one_goes(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        apply(plane, ns, request("typo", "1", "7"))
        body: dict[str, Any] = {}

        async def refused() -> bool:
            nonlocal body
            body = await kube.get(RESET, ns, "typo") or {}
            return condition(body, "Stalled").get("status") == "True"

        await eventually_async(refused, 30)
        assert condition(body, "Accepted") | {"lastTransitionTime": ""} == {
            "type": "Accepted",
            "status": "False",
            "observedGeneration": 1,
            "lastTransitionTime": "",
            "reason": "DeploymentMissing",
            "message": "spec.instances: SystemDeployment class has no instance 7; it has 1; create another "
            "SystemReset; nothing is reset",
        }
        assert await revisions(kube, ns) == {("1", "m0"): 1}
        apply(plane, ns, request("short", "1", ttlSecondsAfterFinished=1))

        async def gone() -> bool:
            return await kube.get(RESET, ns, "short") is None

        await eventually_async(gone, 90, "the finished request is deleted")
        await wait_ready(kube, ns)
        assert await revisions(kube, ns) == {("1", "m0"): 2}
        await wait_gone(plane, kube, ns)
    assert not actors.violations


async def test_the_command_line_requests_resets_for_its_caller(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment(replicas=2))
        await wait_ready(kube, ns)
        done = await kigi_json(
            plane, "reset", "class", "1", "m1", "--yes", "--reason", "lunch", "--wait", "60", "-n", ns
        )
        assert done.pop("name").startswith("class-")
        user = done["spec"].pop("requestedBy")
        assert user in await asyncio.to_thread(plane.kubectl, "auth", "whoami")
        assert done == {
            "kind": "SystemReset",
            "namespace": ns,
            "spec": {
                "deploymentRef": {"name": "class"},
                "instances": ["1"],
                "machines": ["m1"],
                "reason": "lunch",
                "ttlSecondsAfterFinished": 604800,
            },
            "ready": True,
        }
        assert (await revisions(kube, ns))["1", "m1"] == 2
        await kigi(plane, "reset", "class", "--yes", "--wait", "60", "-n", ns)
        assert set((await revisions(kube, ns)).values()) == {2, 3}
        for wrong, words in {
            ("reset", "class", "7"): "instance 7 does not exist: class has 1",
            ("reset", "class", "1", "nobody"): "has no machine nobody",
            ("reset", "nothing"): f"there is no SystemDeployment {ns}/nothing",
        }.items():
            assert words in await kigi(plane, *wrong, "-n", ns, code=1)
        await wait_gone(plane, kube, ns)
    assert not actors.violations
