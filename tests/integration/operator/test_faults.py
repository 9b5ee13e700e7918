"""Faults: a silent API server, an outdated mirror, two operators, a lost node, a killed process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import LEASE, MACHINE, VOLUME, Resource
from kigi.adapters.kubernetes.watch import WatchEvent
from kigi.handlers import children, feed
from kigi.runtime.ports import Ports
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import (
    apply,
    deployment,
    get_deployment,
    has_only,
    is_ready,
    listing,
    trees,
    wait_gone,
    wait_ready,
)
from tests.support.operator_run import FAST, OperatorRun

from .test_why import has, why


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> dict[str, float | bool]:
    """How the watches of operators that are started now behave: ``deaf``, or late by ``delay_s``."""
    behaviour: dict[str, float | bool] = {"deaf": False, "delay_s": 0.0}
    real = feed._handler

    def handler(ports: Ports, resource: Resource) -> Any:
        hear = real(ports, resource)

        async def seen(event: Any, **_: Any) -> None:
            if behaviour["deaf"]:
                return
            loop = asyncio.get_running_loop()
            loop.call_later(behaviour["delay_s"], lambda: asyncio.ensure_future(hear(event=event)))

        return seen

    def take(self: children.ChildWatch, event: WatchEvent) -> None:
        if not behaviour["deaf"]:
            asyncio.get_running_loop().call_later(behaviour["delay_s"], real_take, self, event)

    real_take = children.ChildWatch._take
    monkeypatch.setattr(feed, "_handler", handler)
    monkeypatch.setattr(children.ChildWatch, "_take", take)
    return behaviour


async def test_an_api_server_that_stops_for_a_minute_only_causes_a_delay(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """Stopped in the middle of a deployment, with its connections open: no client sees the disconnect."""
    settings = FAST.model_copy(
        update={"request_timeout_s": 5.0, "leader_election": True, "namespace": "kigi-system", "lease_s": 15.0}
    )
    pid = plane.processes.pid("kube-apiserver")
    assert pid is not None
    async with OperatorRun(operator_kubeconfig, settings=settings) as run:
        apply(plane, ns, *trees(), deployment(replicas=2))
        before = run.writes
        await eventually_async(lambda: run.writes > before + 5, 20)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(60)
        finally:
            os.kill(pid, signal.SIGCONT)
        await wait_ready(kube, ns, timeout_s=90)
        await wait_gone(plane, kube, ns)
    assert not actors.violations


async def test_the_resync_finds_what_a_watch_missed(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    ns: str,
    watches: dict[str, float | bool],
) -> None:
    async with OperatorRun(operator_kubeconfig, settings=FAST.model_copy(update={"resync_s": 6.0})):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        watches["deaf"] = True
        await kube.delete(MACHINE, ns, "class-1-m0")
        await eventually_async(lambda: vm_is_gone(kube, ns), 20)
        await eventually_async(lambda: has_only(kube, ns, 1), 30, "the VM is made again")
        watches["deaf"] = False
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)


async def vm_is_gone(kube: KubeClient, ns: str) -> bool:
    return not await listing(kube, MACHINE, ns)


async def test_a_mirror_that_lags_creates_nothing_twice(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    ns: str,
    watches: dict[str, float | bool],
) -> None:
    """Every event comes two seconds late, as from a slow watch cache; only own writes are seen immediately."""
    watches["delay_s"] = 2.0
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(), deployment())
        await wait_ready(kube, ns)
        apply(plane, ns, deployment(resetToken="1"))
        await wait_ready(kube, ns)
        volumes = (await listing(kube, VOLUME, ns)).values()
        assert {body["metadata"]["labels"]["kigi.dev/revision"] for body in volumes} <= {"1", "2"}
        await eventually_async(lambda: has_only(kube, ns, 3), 30)
        await wait_gone(plane, kube, ns)
    assert not actors.violations


async def test_a_second_operator_takes_over_after_the_first_is_killed(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    settings = FAST.model_copy(update={"leader_election": True, "namespace": "kigi-system", "lease_s": 4.0})
    first = await OperatorRun(operator_kubeconfig, settings=settings.model_copy(update={"identity": "first"})).start()
    await eventually_async(lambda: holder(kube, "first"), 40)
    second = await OperatorRun(operator_kubeconfig, settings=settings.model_copy(update={"identity": "second"})).start()
    try:
        apply(plane, ns, *trees(), deployment())
        await eventually_async(lambda: first.writes > 4, 20)
        assert second.writes == 0
        await first.kill()
        await wait_ready(kube, ns, timeout_s=60)
        assert await holder(kube, "second")
        await wait_gone(plane, kube, ns)
    finally:
        await second.stop()
    assert await holder(kube, ""), "a released lease can be acquired immediately"
    assert not actors.violations


async def holder(kube: KubeClient, identity: str) -> bool:
    lease = await kube.get(LEASE, "kigi-system", "kigi-operator")
    return lease is not None and lease["spec"].get("holderIdentity", "") == identity


async def test_machines_leave_a_lost_node_when_its_object_is_deleted(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    await actors.add_node("doomed")
    async with OperatorRun(operator_kubeconfig):
        try:
            pinned = {"nodeSelector": {"kubernetes.io/hostname": "doomed"}}
            apply(plane, ns, *trees(1), deployment(placement=pinned))
            await wait_ready(kube, ns)
            await actors.lose_node("doomed")
            apply(plane, ns, deployment(placement={"strategy": "Spread"}))

            async def elsewhere() -> bool:
                body = await get_deployment(kube, ns)
                instances = (body or {}).get("status", {}).get("instances") or ()
                nodes = {machine.get("node") for instance in instances for machine in instance["machines"]}
                return await is_ready(kube, ns) and nodes <= {"node-0", "node-1"}

            await eventually_async(elsewhere, 60)
            await eventually_async(lambda: has_only(kube, ns, 1), 30)
            await wait_gone(plane, kube, ns)
        finally:
            actors.alive.discard("doomed")


async def test_a_vm_that_loses_its_label_for_a_moment_is_seen_again(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """A watch with a label selector reports it as deleted."""
    async with OperatorRun(operator_kubeconfig) as run:
        assert run.ports is not None
        mirror = run.ports.mirror
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        (name,) = (vm.meta.name for vm in mirror.machines if vm.meta.namespace == ns)
        plane.kubectl("label", "vm", name, "-n", ns, "kigi.dev/deployment-")

        async def restored() -> bool:
            body = await kube.get(MACHINE, ns, name)
            labels = body["metadata"].get("labels", {}) if body is not None else {}
            return "kigi.dev/deployment" in labels and mirror.machines.get(ns, name) is not None

        await eventually_async(restored, 30, "the label is back, and the operator sees the VM")
        await wait_ready(kube, ns)
        await wait_gone(plane, kube, ns)


@pytest.mark.why("NodeMissing")
async def test_disks_of_a_deleted_node_wait_for_its_return_or_for_a_decision(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    await actors.add_node("blinking")
    async with OperatorRun(operator_kubeconfig, settings=FAST.model_copy(update={"node_grace_s": 600.0})):
        try:
            pinned = {"nodeSelector": {"kubernetes.io/hostname": "blinking"}}
            apply(plane, ns, *trees(1), deployment(placement=pinned))
            await wait_ready(kube, ns)
            before = set(actors.disks["blinking"].overlays)
            apply(plane, ns, deployment(placement={"strategy": "Spread"}))
            await actors.lose_node("blinking", keep_disk=True)
            await has(kube, ns, "NodeMissing")
            assert "kubectl delete nodecache blinking" in (await why(plane, ns, "class", "NodeMissing"))["message"]
            await actors.add_node("blinking")
            await wait_ready(kube, ns)
            assert set(actors.disks["blinking"].overlays) == before, "nothing was given up"
            await actors.lose_node("blinking")
            await has(kube, ns, "NodeMissing")
            plane.kubectl("delete", "nodecache", "blinking")
            await eventually_async(lambda: left_behind(kube, ns, "blinking"), 60)
            await wait_gone(plane, kube, ns)
        finally:
            actors.alive.discard("blinking")


async def test_a_returning_node_loses_the_overlays_of_before(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """Their volumes were released with the Node object, so that nothing that is deleted asks for them."""
    await actors.add_node("prodigal")
    async with OperatorRun(operator_kubeconfig):
        try:
            pinned = {"nodeSelector": {"kubernetes.io/hostname": "prodigal"}}
            apply(plane, ns, *trees(1), deployment(placement=pinned))
            await wait_ready(kube, ns)
            before = set(actors.disks["prodigal"].overlays)
            assert before
            await actors.lose_node("prodigal", keep_disk=True)
            apply(plane, ns, deployment(placement={"strategy": "Spread"}))
            await eventually_async(lambda: left_behind(kube, ns, "prodigal"), 60)
            assert set(actors.disks["prodigal"].overlays) == before
            await actors.add_node("prodigal")
            await eventually_async(lambda: not before & actors.disks["prodigal"].overlays.keys(), 60)
            await wait_ready(kube, ns)
            await wait_gone(plane, kube, ns)
        finally:
            actors.alive.discard("prodigal")
    assert not actors.violations


async def left_behind(kube: KubeClient, ns: str, node: str) -> bool:
    """No volume is on the node any more, and the deployment runs elsewhere."""
    volumes = (await listing(kube, VOLUME, ns)).values()
    return await is_ready(kube, ns) and bool(volumes) and node not in {node_of(volume) for volume in volumes}


def node_of(volume: dict[str, Any]) -> str:
    terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    return str(terms[0]["matchExpressions"][0]["values"][0])


@pytest.mark.timeout(200)
async def test_the_real_process_survives_sigkill_and_ends_on_sigterm(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    def start() -> subprocess.Popen[bytes]:
        env = {
            **os.environ,
            "KUBECONFIG": operator_kubeconfig,
            "KIGI_HTTP_HOST": "127.0.0.1",
            "KIGI_HTTP_PORT": str(free_port()),
            "KIGI_LEASE_SECONDS": "3",
            "KIGI_HOOK_IMAGE": "kigi:dev",  # no Deployment names one here
        }
        return subprocess.Popen([sys.executable, "-m", "kigi.main"], env=env, stderr=subprocess.DEVNULL)

    process = start()
    try:
        apply(plane, ns, *trees(), deployment(replicas=2))

        async def begun() -> bool:
            return len(await listing(kube, VOLUME, ns)) > 0

        await eventually_async(begun, 40)
        process.kill()
        process.wait()
        process = start()
        await wait_ready(kube, ns, timeout_s=60)
        await wait_gone(plane, kube, ns)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert await holder(kube, "")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert not actors.violations
