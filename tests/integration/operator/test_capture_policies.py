"""What a SystemCapture may ask of guests and of time; real API server, played KubeVirt and daemons."""

from __future__ import annotations

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CAPTURE, SYSTEM
from kigi.errors import Unreachable
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, condition, deployment, trees, wait_gone, wait_ready
from tests.support.operator_run import OperatorRun

from .test_capture_troubles import in_stage
from .test_captures import attempt_failed, capture, drop, get, paused_vms, wait_done, wait_reason


@pytest.mark.why("AgentMissing", "FreezeFailed")
async def test_a_required_freeze_pauses_nothing_without_it(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        before = dict(actors.pauses)
        apply(plane, ns, capture(quiescePolicy="FreezeRequired"))
        assert "m0, m1 cannot freeze" in await wait_reason(kube, ns, "AgentMissing")
        await drop(plane, ns)
        await actors.connect_agents(ns)
        actors.freeze_error = Unreachable("the agent does not answer")
        apply(plane, ns, capture(quiescePolicy="FreezeRequired"))
        await eventually_async(lambda: attempt_failed(kube, ns, "FreezeFailed"), 20, "FreezeFailed")
        assert (actors.pauses, paused_vms(actors, ns)) == (before, []), "nothing was paused"
        actors.freeze_error = None
        await drop(plane, ns)
        apply(plane, ns, capture(quiescePolicy="FreezeRequired"))
        status = (await wait_done(kube, ns))["status"]
        assert {machine["method"] for machine in status["machines"]} == {"FreezeAndPause"}
        await wait_gone(plane, kube, ns)


@pytest.mark.why("DeadlineExceeded")
async def test_a_capture_ends_at_its_deadline_with_its_vms_resumed_and_its_copies_dropped(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        actors.hold_copies = True
        apply(plane, ns, capture(activeDeadlineSeconds=86400))
        await in_stage(kube, ns, "Storing")
        assert any(disk.copies for disk in actors.disks.values())
        apply(plane, ns, capture(activeDeadlineSeconds=1))  # the limits may change
        assert "1 s are over" in await wait_reason(kube, ns, "DeadlineExceeded")
        assert not paused_vms(actors, ns)
        await eventually_async(lambda: not any(disk.copies for disk in actors.disks.values()), 20)
        actors.hold_copies = False
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)


async def test_a_finished_capture_goes_by_itself_and_its_state_stays(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        apply(plane, ns, capture())
        await wait_done(kube, ns)
        apply(plane, ns, capture(ttlSecondsAfterFinished=1))
        await eventually_async(lambda: is_gone(kube, ns), 20, "the capture is deleted")
        assert await kube.get(SYSTEM, ns, "after") is not None
        await wait_gone(plane, kube, ns)


async def is_gone(kube: KubeClient, ns: str) -> bool:
    return await kube.get(CAPTURE, ns, "after") is None


@pytest.mark.why("StatusInvalid")
async def test_a_status_that_cannot_be_read_stops_the_capture_and_stays_as_it_is(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    apply(plane, ns, *trees(1), deployment())
    apply(plane, ns, capture())
    before = dict(actors.pauses)
    machines = [{"name": "m0", "method": "Migrate"}]
    patch = {"status": {"attempts": 1, "machines": machines}}
    await actors._merge(CAPTURE, ns, "after", patch, "status")
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        message = await wait_reason(kube, ns, "StatusInvalid")
        assert "machines[m0].method" in message and "delete this SystemCapture" in message
        await wait_ready(kube, ns)
        body = await get(kube, ns)
        assert (body["status"]["machines"], body["status"]["attempts"]) == (machines, 1)
        assert condition(body, "Stalled")["status"] == "True"
        assert actors.pauses == before
        await drop(plane, ns)
        await wait_gone(plane, kube, ns)
