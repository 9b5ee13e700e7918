"""What an instructor does with a class: ranges, costs before the action, the way back; on a real API server."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from prometheus_client import REGISTRY

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CAPTURE, RESET
from localcluster.controlplane import ControlPlane
from tests.integration.operator.test_cli import kigi, kigi_json, start_kigi
from tests.support.actors import Actors
from tests.support.answering import AnsweringServer
from tests.support.cluster import REPOSITORY, eventually_async
from tests.support.deployments import (
    apply,
    deployment,
    get_deployment,
    get_instances,
    trees,
    wait_gone,
    wait_ready,
    wait_reported,
)
from tests.support.operator_run import OperatorRun


def moved(actors: Actors) -> dict[str, int]:
    """Bytes that each node has fetched."""
    return {name: actors.disks[name].moved_bytes for name in actors.node_names}


def measured(ns: str, action: str) -> float:
    """Number of changes of instances whose duration was measured."""
    labels = {"namespace": ns, "deployment": "class", "action": action}
    return REGISTRY.get_sample_value("kigi_instance_ready_seconds_count", labels) or 0


async def revisions(kube: KubeClient, ns: str) -> dict[str, list[int]]:
    """Instance -> revisions of its machines."""
    return {
        name: [machine["revision"] for machine in one["status"]["machines"]]
        for name, one in sorted((await get_instances(kube, ns)).items())
    }


async def test_the_plan_of_a_range_is_what_then_moves_to_the_byte(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        await wait_reported(kube, actors.alive)
        apply(plane, ns, *trees(), deployment(replicas=4))
        await wait_ready(kube, ns)
        before = moved(actors)
        preview = await kigi_json(plane, "switch", "class", "cleaned", "1-2,4", "--dry-run", "-n", ns)
        assert preview["instances"] == ["1", "2", "4"]
        assert {machine["action"] for machine in preview["machines"]} == {"restart on a fresh disk"}
        assert preview["missingBytes"] > 0
        assert moved(actors) == before
        await kigi(plane, "switch", "class", "cleaned", "1-2,4", "--yes", "--wait", "60", "-n", ns)
        planned = {node["name"]: node["missingBytes"] for node in preview["nodes"]}
        after = moved(actors)
        assert {name: after[name] - before[name] for name in planned} == planned
        systems = {name: one["status"]["systemName"] for name, one in (await get_instances(kube, ns)).items()}
        assert systems == {"1": "cleaned", "2": "cleaned", "3": "infected", "4": "cleaned"}
        await wait_gone(plane, kube, ns)


async def test_a_reset_concerns_the_machines_of_the_range_and_asks(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(), deployment(replicas=3))
        await wait_ready(kube, ns)
        preview = await kigi_json(plane, "reset", "class", "m1", "--all-but", "2", "--dry-run", "-n", ns)
        assert [(one["instance"], one["name"]) for one in preview["machines"]] == [("1", "m1"), ("3", "m1")]
        assert preview["missingBytes"] == 0
        said = await kigi(plane, "reset", "class", "1-3", "-n", ns, code=5)
        assert "9 machines of instances 1-3" in said
        assert "give --yes" in said
        assert "instance 4 does not exist: class has 1-3" in await kigi(
            plane, "reset", "class", "1-4", "--yes", "-n", ns, code=1
        )
        assert [body async for body in kube.list_all(RESET, ns)] == [], "nothing was asked for"
        await kigi(plane, "reset", "class", "m1", "--all-but", "2", "--yes", "--wait", "60", "-n", ns)
        assert await revisions(kube, ns) == {"1": [1, 2, 1], "2": [1, 1, 1], "3": [1, 2, 1]}
        assert [measured(ns, action) for action in ("Deployed", "Reset", "Switched")] == [3, 2, 0]
        assert "class/2" not in await kigi(plane, "status", "class", "1,3", "-n", ns)
        text = await kigi(plane, "status", "class", "1,3", "m1", "-n", ns)
        rows = [line.split()[:3] for line in text.splitlines() if " m1 " in line and "Reset" not in line]
        assert rows == [["1", "m1", "Running"], ["3", "m1", "Running"]]
        assert "is ready" in await kigi(plane, "why", "class", "1-2", "-n", ns)
        await wait_gone(plane, kube, ns)


async def test_keep_makes_the_undo_one_command(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(2), deployment(replicas=2))
        await wait_ready(kube, ns)
        process = await start_kigi(
            plane, "reset", "class", "1-2", "--keep", "before", "--yes", "--wait", "120", "-n", ns
        )
        _, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        (undo,) = re.findall(r"^undo: (.*)$", err.decode(), re.MULTILINE)
        assert undo == f"kigi switch class 'before-{{instance}}' 1,2 -n {ns}"
        assert await revisions(kube, ns) == {"1": [2, 2], "2": [2, 2]}
        assert REGISTRY.get_sample_value("kigi_capture_seconds_count", {"namespace": ns, "deployment": "class"}) == 2
        await kigi(plane, *shlex.split(undo)[1:], "--yes", "--wait", "120")
        systems = {name: one["status"]["systemName"] for name, one in (await get_instances(kube, ns)).items()}
        assert systems == {"1": "before-1", "2": "before-2"}
        assert "before-1 exists already" in await kigi(
            plane, "reset", "class", "--keep", "before", "--yes", "-n", ns, code=1
        )
        assert await revisions(kube, ns) == {"1": [3, 3], "2": [3, 3]}, "a name that is taken changes nothing"
        await wait_gone(plane, kube, ns)


async def test_a_capture_that_fails_keeps_the_disks(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    """The state's name is free, and the name of the SystemCapture is not."""
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(1), deployment())
        await wait_ready(kube, ns)
        spec = {"instanceRef": {"name": "class-9"}, "requestedBy": "kubernetes-admin"}
        meta = {"name": "before", "namespace": ns}
        await kube.create(
            CAPTURE, {"apiVersion": CAPTURE.api_version, "kind": CAPTURE.kind, "metadata": meta, "spec": spec}
        )
        await kigi(plane, "reset", "class", "--keep", "before", "--yes", "-n", ns, code=1)
        assert await revisions(kube, ns) == {"1": [1]}
        plane.kubectl("delete", "systemcapture", "before", "-n", ns, "--wait=false")
        await wait_gone(plane, kube, ns)


async def test_vms_of_a_range_stop_and_start_on_their_disks(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async def states() -> dict[str, set[str]]:
        return {
            name: {machine["state"] for machine in one["status"]["machines"]}
            for name, one in sorted((await get_instances(kube, ns)).items())
        }

    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment(replicas=3))
        await wait_ready(kube, ns)
        preview = await kigi_json(plane, "stop", "class", "1-2", "--dry-run", "-n", ns)
        assert ({one["action"] for one in preview["machines"]}, preview["lostBytes"]) == ({"stop"}, 0)
        await kigi(plane, "stop", "class", "1-2", "--yes", "--wait", "60", "-n", ns)
        assert await states() == {"1": {"Stopped"}, "2": {"Stopped"}, "3": {"Running"}}
        process = await start_kigi(plane, "start", "class", "-n", ns)
        _, err = await process.communicate()
        assert "instances 1,2 keep a powerState of their own; for these, too: kigi start class 1,2" in err.decode()
        await kigi(plane, "start", "class", "1,2", "--wait", "60", "-n", ns)
        assert await states() == {"1": {"Running"}, "2": {"Running"}, "3": {"Running"}}
        assert await revisions(kube, ns) == {"1": [1, 1], "2": [1, 1], "3": [1, 1]}
        await wait_gone(plane, kube, ns)


async def test_an_instructor_sees_the_machines_without_the_plan(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    plane.kubectl("apply", "-f", str(REPOSITORY / "manifests/rbac/users.yaml"))
    mia = str(plane.user_kubeconfig("mia", []))
    plane.kubectl("create", "rolebinding", "mia", "--clusterrole=kigi-instructor", "--user=mia", "-n", ns)
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        preview = await kigi_json(plane, "reset", "class", "1", "--dry-run", "-n", ns, "--kubeconfig", mia)
        assert [(m["name"], m["missingBytes"]) for m in preview["machines"]] == [("m0", None), ("m1", None)]
        assert any("kigi-cluster-view" in note for note in preview["notes"])
        await kigi(plane, "reset", "class", "1", "--yes", "--wait", "60", "-n", ns, "--kubeconfig", mia)
        assert await revisions(kube, ns) == {"1": [2, 2]}
        await wait_gone(plane, kube, ns)


async def test_a_preview_has_what_guests_wrote_and_a_reset_forgets_it(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async def written() -> dict[str, int]:
        (one,) = (await get_instances(kube, ns)).values()
        return {machine["name"]: machine.get("writtenBytes", -1) for machine in one["status"]["machines"]}

    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        disks = {handle: disk for disk in actors.disks.values() for handle in disk.overlays if f".{ns}." in handle}
        (noisy,) = [handle for handle in disks if ".m1." in handle]
        disks[noisy].written[noisy] = 5 * 2**20

        async def is_reported() -> bool:
            for name in actors.node_names:
                await actors._report(name)
            return await written() == {"m0": 0, "m1": 5 * 2**20}

        await eventually_async(is_reported, 30)
        preview = await kigi_json(plane, "reset", "class", "1", "--dry-run", "-n", ns)
        assert {one["name"]: one["lostBytes"] for one in preview["machines"]} == {"m0": 0, "m1": 5 * 2**20}
        assert preview["lostBytes"] == 5 * 2**20
        assert "lose 5.0 MiB" not in await kigi(plane, "reset", "class", "1", "m0", "-n", ns, code=5)
        assert "5.0 MiB" in await kigi(plane, "status", "class", "-n", ns)
        await kigi(plane, "reset", "class", "--yes", "--wait", "60", "-n", ns)
        await eventually_async(lambda: _is(written, {"m0": 0, "m1": 0}), 30)
        await wait_gone(plane, kube, ns)


async def _is(read: Callable[[], Awaitable[dict[str, int]]], expected: dict[str, int]) -> bool:
    return await read() == expected


async def test_a_feed_shows_each_change_as_it_happens(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment(replicas=2))
        await wait_ready(kube, ns)
        history = await start_kigi(plane, "history", "class", "--follow", "-o", "json", "-n", ns)
        status = await start_kigi(plane, "status", "class", "2", "m1", "--watch", "-n", ns)
        assert history.stdout is not None
        assert status.stdout is not None
        first = [json.loads(await history.stdout.readline()) for _ in range(2)]
        assert {(entry["instance"], entry["action"]) for entry in first} == {("1", "Deployed"), ("2", "Deployed")}
        line = (await status.stdout.readline()).decode().split()
        assert line[1:] == ["2", "m1", "Running", "infected"]
        await kigi(plane, "reset", "class", "2", "m1", "--reason", "lunch", "--yes", "--wait", "60", "-n", ns)
        entry = json.loads(await asyncio.wait_for(history.stdout.readline(), 60))
        assert (entry["instance"], entry["action"], entry["reason"]) == ("2", "Reset", "lunch")
        states = []
        while not states or states[-1] != "Running":
            states.append((await asyncio.wait_for(status.stdout.readline(), 60)).decode().split()[3])
        assert len(states) > 1, "each state on the way is a line"
        for process in (history, status):
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        rows = await kigi_json(plane, "history", "class", "1", "-n", ns)
        assert [(row["instance"], row["action"]) for row in rows] == [("1", "Deployed")]
        assert (await kigi(plane, "history", "class", "-o", "csv", "-n", ns)).count("\n") == 4
        await wait_gone(plane, kube, ns)


async def test_a_webhook_gets_the_events_of_a_reset(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    with AnsweringServer(lambda method, path: (202, b"")) as server:
        async with OperatorRun(operator_kubeconfig):
            apply(plane, ns, *trees(1), deployment(replicas=2))
            await wait_ready(kube, ns)
            process = await start_kigi(plane, "events", "class", "--webhook", server.url, "-n", ns)

            async def switched() -> bool:
                """A switch back and forth shows that the events are followed."""
                await kigi(plane, "switch", "class", "cleaned", "2", "--yes", "--wait", "60", "-n", ns)
                await kigi(plane, "switch", "class", "infected", "2", "--yes", "--wait", "60", "-n", ns)
                return bool(server.asked)

            await eventually_async(switched, 120)
            server.asked.clear()
            await kigi(plane, "reset", "class", "1", "--yes", "--wait", "60", "-n", ns)

            def received() -> list[str]:
                return [event["type"].removeprefix("dev.kigi.") for *_, event in list(server.asked)]

            async def is_complete() -> bool:
                return {"instance.reset", "instance.ready", "reset.ready"} <= set(received())

            await eventually_async(is_complete, 30)
            of_one = [e["type"] for *_, e in server.asked if e["subject"] == "SystemInstance/class-1"]
            assert of_one.index("dev.kigi.instance.reset") < of_one.index("dev.kigi.instance.ready")
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            await wait_gone(plane, kube, ns)


async def test_the_vms_of_a_class_stop_at_its_end_and_start_again_without_it(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async def states() -> set[str]:
        return {m["state"] for one in (await get_instances(kube, ns)).values() for m in one["status"]["machines"]}

    async def reason() -> str:
        body = await get_deployment(kube, ns)
        assert body is not None
        conditions = {each["type"]: each for each in body["status"]["conditions"]}
        return str(conditions["Expiring"]["reason"]) if "Expiring" in conditions else ""

    async def eventually(read: Callable[[], Awaitable[object]], expected: object) -> None:
        async def is_so() -> bool:
            return await read() == expected

        await eventually_async(is_so, 60)

    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(1), deployment(replicas=2))
        await wait_ready(kube, ns)
        assert await reason() == ""
        end = datetime.now(UTC) + timedelta(seconds=8)
        expiration = {"time": end.isoformat(timespec="seconds"), "noticeSeconds": 3600, "action": "PowerOff"}
        apply(plane, ns, deployment(replicas=2, expiration=expiration))
        await eventually(reason, "ExpiresSoon")
        assert await states() == {"Running"}, "the notice stops nothing"
        await eventually(states, {"Stopped"})
        await eventually(reason, "Expired")
        assert datetime.now(UTC) >= end - timedelta(seconds=1)
        await kigi(plane, "start", "class", "1", "-n", ns)
        apply(plane, ns, deployment(replicas=2))
        await eventually(states, {"Running"})
        await eventually(reason, "")
        assert await revisions(kube, ns) == {"1": [1], "2": [1]}, "no disk was replaced"
        events = plane.kubectl("get", "events.events.k8s.io", "-n", ns, "-o", "jsonpath={.items[*].reason}")
        assert {"ExpiresSoon", "Expired"} <= set(events.split())
        await wait_gone(plane, kube, ns)
