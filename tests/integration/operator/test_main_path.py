"""The operator on a real API server and controller manager; KubeVirt, kubelets and daemons are simulated."""

from __future__ import annotations

import asyncio
import json

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CLAIM, EVENT, MACHINE, VMI, VOLUME
from kigi.domain.names import HOOK_SIDECARS
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import (
    apply,
    condition,
    deployment,
    get_deployment,
    has_only,
    listing,
    no_overlays,
    node_caches,
    outcome,
    trees,
    wait_gone,
    wait_ready,
)
from tests.support.operator_run import OperatorRun
from tests.support.why import explained


async def test_deploy_switch_reset_and_delete(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(), deployment(replicas=2))
        body = await wait_ready(kube, ns)
        machines = await listing(kube, MACHINE, ns)
        assert len(machines) == len(await listing(kube, VOLUME, ns)) == len(await listing(kube, CLAIM, ns)) == 6
        assert body["status"]["readyReplicas"] == 2
        assert set(body["metadata"]["finalizers"]) == {"kigi.dev/deployment-cleanup"}
        assert not [key for key in body["metadata"].get("annotations", {}) if "kopf" in key]
        before = await outcome(kube, ns)

        # A switch: machines with fresh disks, the same identity.
        apply(plane, ns, deployment(state="cleaned", replicas=2))
        await wait_ready(kube, ns)
        after = await outcome(kube, ns)
        for name, machine in before.items():
            if isinstance(machine, dict):
                assert after[name]["firmware"] == machine["firmware"]
                assert after[name]["mac"] == machine["mac"]
        assert after["class-1-m0"]["chain"] != before["class-1-m0"]["chain"]
        await eventually_async(lambda: has_only(kube, ns, 6), 20, "old disks are gone")

        # A reset of all.
        starts = len(actors.starts)
        apply(plane, ns, deployment(state="cleaned", replicas=2, resetToken="1"))
        await wait_ready(kube, ns)
        assert len(actors.starts) == starts + 6
        assert await outcome(kube, ns) | {"volumes": 0, "claims": 0} == after | {"volumes": 0, "claims": 0}

        # Scale down.
        apply(plane, ns, deployment(state="cleaned", replicas=1, resetToken="1"))
        await wait_ready(kube, ns)
        await eventually_async(lambda: has_only(kube, ns, 3), 20, "the second instance is gone")

        await wait_gone(plane, kube, ns)
        await eventually_async(lambda: no_overlays(actors, ns), 20, "overlays are gone")
        for cache in (await node_caches(kube)).values():
            assert not cache["spec"].get("layers")
            assert not cache["spec"].get("discardVolumes")
        assert not actors.violations


async def test_kubectl_wait_works_on_every_kind(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(1), deployment())
        for kind in ("vmimagenodes", "systemnodes", "systemdeployments"):
            await asyncio.to_thread(
                plane.kubectl, "wait", "--for=condition=Ready", kind, "--all", "-n", ns, "--timeout=30s"
            )

        async def all_reported() -> bool:
            """The operator writes events after the status that they are about."""
            events = await kube.get(EVENT, ns, "")
            assert events is not None
            reasons = {item["reason"] for item in events["items"] if item["regarding"]["kind"] == "SystemDeployment"}
            return reasons >= {"LayersCached", "ClaimsBound", "MachinesCreated", "Deployed"}

        await eventually_async(all_reported, 20)
        await wait_gone(plane, kube, ns)
        assert not actors.violations


async def test_a_missing_image_is_reported_and_waited_for(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        objects = trees(1)
        late = [item for item in objects if item["metadata"]["name"] == "role-0"]
        apply(plane, ns, *(item for item in objects if item not in late), deployment())

        async def reported() -> bool:
            body = await get_deployment(kube, ns)
            return body is not None and condition(body, "Resolved").get("reason") == "ImageMissing"

        await eventually_async(reported, 20)
        body = await get_deployment(kube, ns)
        assert body is not None
        assert "role-0" in condition(body, "Ready")["message"]
        assert condition(body, "Stalled")["status"] == "False"
        apply(plane, ns, *late)
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)


async def test_a_vm_of_another_owner_with_the_same_name_is_never_changed(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    foreign = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "class-1-m0"},
        "spec": {
            "runStrategy": "Halted",
            "template": {
                "spec": {"domain": {"devices": {}}, "volumes": [{"name": "x", "emptyDisk": {"capacity": "1Gi"}}]}
            },
        },
    }
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, foreign)
        apply(plane, ns, *trees(1), deployment())

        async def reported() -> bool:
            body = await get_deployment(kube, ns)
            return body is not None and condition(body, "Ready").get("reason") == "NameTaken"

        await eventually_async(reported, 30)
        vm = await kube.get(MACHINE, ns, "class-1-m0")
        assert vm is not None
        assert vm["spec"] == foreign["spec"]
        await wait_gone_but(plane, kube, ns)
        assert await kube.get(MACHINE, ns, "class-1-m0") is not None


async def wait_gone_but(plane: ControlPlane, kube: KubeClient, ns: str) -> None:
    plane.kubectl("delete", "systemdeployment", "class", "-n", ns, "--wait=false")

    async def gone() -> bool:
        return await get_deployment(kube, ns) is None

    await eventually_async(gone, 40)


async def test_an_edited_template_waits_and_then_restarts_its_machine_on_its_disk(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        before, claims = await listing(kube, VMI, ns), await listing(kube, CLAIM, ns)

        state = next(item for item in trees(2) if item["metadata"]["name"] == "infected")
        state["spec"]["machines"][0]["hardware"]["memory"] = {"guest": "256Mi"}
        apply(plane, ns, state)

        async def waits() -> bool:
            body = await get_deployment(kube, ns)
            return body is not None and condition(body, "Updated").get("reason") == "EditsWait"

        await eventually_async(waits, 30, "the edit is reported")
        await wait_ready(kube, ns)
        vmis = await listing(kube, VMI, ns)
        assert {name: vmi["metadata"]["uid"] for name, vmi in vmis.items()} == {
            name: vmi["metadata"]["uid"] for name, vmi in before.items()
        }
        vm = (await listing(kube, MACHINE, ns))["class-1-m0"]
        assert vm["spec"]["template"]["spec"]["domain"]["memory"]["guest"] != "256Mi"
        apply(plane, ns, deployment(updateStrategy={"onEdit": "Immediate"}))

        async def runs_it() -> bool:
            vmi = (await listing(kube, VMI, ns)).get("class-1-m0")
            return vmi is not None and vmi["spec"]["domain"]["memory"]["guest"] == "256Mi"

        await eventually_async(runs_it, 30, "the instance has the new memory")
        await wait_ready(kube, ns)
        after = await listing(kube, VMI, ns)
        assert after["class-1-m1"]["metadata"]["uid"] == before["class-1-m1"]["metadata"]["uid"]
        assert (await listing(kube, CLAIM, ns)).keys() == claims.keys()
        await wait_gone(plane, kube, ns)
    assert not actors.violations


async def test_a_hook_that_is_removed_from_a_template_is_restored(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)

        async def hook() -> str | None:
            vm = (await listing(kube, MACHINE, ns))["class-1-m0"]
            found: str | None = vm["spec"]["template"]["metadata"].get("annotations", {}).get(HOOK_SIDECARS)
            return found

        async def is_back() -> bool:
            return await hook() == before

        before, running = await hook(), await listing(kube, VMI, ns)
        assert before
        gone = {"spec": {"template": {"metadata": {"annotations": {HOOK_SIDECARS: None}}}}}
        path = ("patch", "virtualmachine", "class-1-m0", "-n", ns, "--type=merge", "-p", json.dumps(gone), "-o", "json")
        answer = json.loads(await asyncio.to_thread(plane.kubectl, *path))
        assert HOOK_SIDECARS not in answer["spec"]["template"]["metadata"]["annotations"]
        await eventually_async(is_back, 20, "the hook is back")
        await wait_ready(kube, ns)
        assert (await listing(kube, VMI, ns)).keys() == running.keys()
        await wait_gone(plane, kube, ns)
    assert not actors.violations


@pytest.mark.why("StateBesideDisk")
async def test_a_vm_with_state_outside_of_its_disk_stalls_the_deployment(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """KubeVirt writes into the instance what a preference brings."""
    patch = ("patch", "virtualmachineinstance", "class-1-m0", "-n", ns, "--type=merge", "-p")

    async def stalled() -> bool:
        stalled = condition(await get_deployment(kube, ns) or {}, "Stalled")
        return (stalled.get("status"), stalled.get("reason")) == ("True", "StateBesideDisk")

    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        for tpm in ({"persistent": True}, None):
            change = json.dumps({"spec": {"domain": {"devices": {"tpm": tpm}}}})
            await asyncio.to_thread(plane.kubectl, *patch, change)
            if tpm:
                await eventually_async(stalled, 20, "it is stalled")
                explained("StateBesideDisk")
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)
