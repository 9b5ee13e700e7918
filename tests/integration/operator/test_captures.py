"""SystemCaptures on a real API server; KubeVirt's requests and the daemons' copies are played."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CAPTURE, IMAGE, SYSTEM, VMI
from kigi.domain import names
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, condition, deployment, get_deployment, trees, wait_gone, wait_ready
from tests.support.operator_run import OperatorRun
from tests.support.why import explained

MACHINES = 3


def capture(name: str = "after", **spec: Any) -> dict[str, Any]:
    spec = {"instanceRef": {"name": "class-1"}, "requestedBy": "alice", **spec}
    return {"apiVersion": names.API_VERSION, "kind": "SystemCapture", "metadata": {"name": name}, "spec": spec}


async def get(kube: KubeClient, ns: str, name: str = "after") -> dict[str, Any]:
    return await kube.get(CAPTURE, ns, name) or {}


async def is_done(kube: KubeClient, ns: str, name: str = "after") -> bool:
    body = await get(kube, ns, name)
    return bool(body) and condition(body, "Ready").get("status") == "True"


async def wait_done(kube: KubeClient, ns: str, name: str = "after", timeout_s: float = 40) -> dict[str, Any]:
    try:
        await eventually_async(lambda: is_done(kube, ns, name), timeout_s)
    except AssertionError:
        raise AssertionError(f"not captured: {(await get(kube, ns, name)).get('status')}") from None
    return await get(kube, ns, name)


async def wait_reason(kube: KubeClient, ns: str, reason: str) -> str:
    async def said() -> str:
        found = condition(await get(kube, ns), "Ready")
        return found.get("message", "") if found.get("reason") == reason else ""

    try:
        message = await eventually_async(said, 20)
    except AssertionError:
        raise AssertionError(f"not {reason}: {(await get(kube, ns)).get('status')}") from None
    explained(reason)
    return message


async def attempt_failed(kube: KubeClient, ns: str, reason: str) -> bool:
    """Whether the last attempt ended for that reason."""
    found = condition(await get(kube, ns), "Captured")
    return (found.get("status"), found.get("reason")) == ("False", reason) and bool(explained(reason))


async def drop(plane: ControlPlane, ns: str) -> None:
    """Returns when it is gone; the operator is in this event loop."""
    await asyncio.to_thread(plane.kubectl, "delete", "systemcapture", "after", "-n", ns, "--timeout=20s")


def paused_vms(actors: Actors, ns: str) -> list[str]:
    return [name for namespace, name in actors.paused_vms if namespace == ns]


async def test_an_instance_becomes_a_state_that_can_be_deployed(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(MACHINES), deployment(replicas=2))
        await wait_ready(kube, ns)
        apply(plane, ns, capture(instanceRef={"name": "class-2"}, target={"description": "before the exam"}))
        status = (await wait_done(kube, ns))["status"]
        assert not paused_vms(actors, ns)
        assert {m["method"] for m in status["machines"]} == {"Pause"}
        assert status["attempts"] == 1
        assert status["parentName"] == "infected"
        assert status["addedBytes"] == status["storedBytes"] == MACHINES * 4096
        assert 0 <= status["skewMilliseconds"] <= status["pauseMilliseconds"] < 20_000
        assert all(m["pauseMilliseconds"] > 0 for m in status["machines"])
        system = await kube.get(SYSTEM, ns, "after")
        assert system is not None
        assert system["spec"]["parentRef"] == {"name": "infected"}
        assert system["spec"]["description"] == "before the exam"
        assert [m["rootDisk"]["imageRef"]["name"] for m in system["spec"]["machines"]] == [
            f"after-m{n}" for n in range(MACHINES)
        ]
        for number in range(MACHINES):
            image = await kube.get(IMAGE, ns, f"after-m{number}")
            assert image is not None
            assert image["spec"]["parentRef"] == {"name": f"infected-{number}"}
            assert image["spec"]["provenance"]["captured"]["instanceName"] == "class-2"
        # Fork: instances of the captured state beside the first ones.
        apply(plane, ns, deployment("fork", "after", replicas=2))
        await wait_ready(kube, ns, "fork")
        # Its object may go; what it made stays.
        await drop(plane, ns)
        assert await kube.get(SYSTEM, ns, "after") is not None
        plane.kubectl("delete", "systemdeployment", "fork", "-n", ns, "--wait=false")
        await wait_gone(plane, kube, ns)
        assert not any(disk.copies for disk in actors.disks.values())
        assert not actors.violations
        actors.pauses.clear()


async def test_vms_that_are_off_are_captured_without_being_asked(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        apply(plane, ns, deployment(powerState="Off"))

        async def off() -> bool:
            return not [v async for v in kube.list_all(VMI) if v["metadata"]["namespace"] == ns]

        await eventually_async(off, 20)
        await wait_ready(kube, ns)
        before = dict(actors.pauses)
        apply(plane, ns, capture(machines=["m1"]))
        status = (await wait_done(kube, ns))["status"]
        assert [(m["name"], m["method"]) for m in status["machines"]] == [("m1", "Off")]
        assert actors.pauses == before
        await wait_gone(plane, kube, ns)
        assert not actors.violations


@pytest.mark.why("DeploymentMissing", "MachineUnknown", "NameTaken")
async def test_bad_specs_are_reported_and_wait(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, capture())
        assert f"{ns}/class" in await wait_reason(kube, ns, "DeploymentMissing")
        await drop(plane, ns)
        apply(plane, ns, *trees(1), deployment(), capture(instanceRef={"name": "class-4"}))
        assert f"no SystemInstance {ns}/class-4" in await wait_reason(kube, ns, "DeploymentMissing")
        await drop(plane, ns)
        apply(plane, ns, capture(machines=["unknown"]))
        assert "it has m0" in await wait_reason(kube, ns, "MachineUnknown")
        await drop(plane, ns)
        await wait_ready(kube, ns)
        apply(plane, ns, capture(target={"systemName": "cleaned"}))  # a state that is there already, and another
        assert f"SystemNode {ns}/cleaned" in await wait_reason(kube, ns, "NameTaken")
        assert "class-1-m0" not in actors.pauses
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


async def test_a_copy_that_is_lost_is_made_again(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        actors.lose_copies = 1
        apply(plane, ns, capture())
        status = (await wait_done(kube, ns, timeout_s=60))["status"]
        assert status["attempts"] == 2
        assert not paused_vms(actors, ns)
        await wait_gone(plane, kube, ns)


async def test_deleting_a_capture_in_the_middle_resumes_the_vms(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """The operator is killed when the VMs are paused, before it gets the answers."""

    async def unheard(*arguments: Any) -> None:
        await actors.vmi_request(*arguments)
        await asyncio.Event().wait()

    run = await OperatorRun(operator_kubeconfig, requests=actors.vmi_request).start()
    apply(plane, ns, *trees(2), deployment())
    await wait_ready(kube, ns)
    await run.stop()
    run = await OperatorRun(operator_kubeconfig, requests=unheard).start()
    try:
        apply(plane, ns, capture())
        await eventually_async(lambda: len(paused_vms(actors, ns)) == 2, 20)
        await run.kill()
        plane.kubectl("delete", "systemcapture", "after", "-n", ns, "--wait=false")
        run = await OperatorRun(operator_kubeconfig, requests=actors.vmi_request).start()

        async def gone() -> bool:
            return not await get(kube, ns)

        await eventually_async(gone, 30)
        assert not paused_vms(actors, ns)
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)
    finally:
        await run.kill()


@pytest.mark.timeout(300)
async def test_the_result_is_the_same_wherever_the_operator_dies(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient
) -> None:
    """Killed after every n-th write; no VM stays paused, and no disk is copied while its VM runs."""
    deaths = {}
    for kill_after in (1, 2, 3, 5):
        ns = f"capture-crash-{kill_after}"
        plane.kubectl("create", "namespace", ns)
        apply(plane, ns, *trees(2), deployment())
        async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
            await wait_ready(kube, ns)
        apply(plane, ns, capture())
        run = await OperatorRun(operator_kubeconfig, requests=actors.vmi_request, kill_after=kill_after).start()
        deaths[kill_after] = 0
        try:
            waiting = asyncio.create_task(wait_done(kube, ns, timeout_s=100))
            while not waiting.done():
                dying = asyncio.create_task(run.dead.wait())
                await asyncio.wait({waiting, dying}, return_when=asyncio.FIRST_COMPLETED)
                dying.cancel()
                if run.dead.is_set():
                    await run.kill()
                    deaths[kill_after] += 1
                    run = await OperatorRun(
                        operator_kubeconfig, requests=actors.vmi_request, kill_after=kill_after
                    ).start()
            body = await waiting
        finally:
            await run.kill()
        assert not paused_vms(actors, ns)
        assert {disk["state"] for disk in body["status"]["disks"]} == {"Stored"}
        assert await kube.get(SYSTEM, ns, "after") is not None
        async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
            await wait_gone(plane, kube, ns)
            assert await get_deployment(kube, ns) is None
        assert not actors.violations
    assert sum(deaths.values()) >= 20, deaths
    print("deaths by writes survived:", deaths)
