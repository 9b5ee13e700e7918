"""``kigi`` on a real API server with a running operator."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import DEPLOYMENT, INSTANCE, NODE_CACHE
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import REPOSITORY, eventually_async
from tests.support.deployments import (
    apply,
    deployment,
    get_deployment,
    get_instances,
    instance,
    is_ready,
    trees,
    wait_gone,
    wait_ready,
    wait_reported,
)
from tests.support.layers import node_cache
from tests.support.operator_run import OperatorRun
from tests.support.shapes import check_shape
from tests.support.why import record


async def start_kigi(plane: ControlPlane, *arguments: str) -> asyncio.subprocess.Process:
    env = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "COLUMNS": "200"}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kigi.cli.main",
        *arguments,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def kigi(plane: ControlPlane, *arguments: str, code: int = 0) -> str:
    """Output of the command, with its messages if ``code`` is not 0; AssertionError for another exit code."""
    process = await start_kigi(plane, *arguments)
    out, err = await process.communicate()
    assert process.returncode == code, f"{arguments}: exit code {process.returncode}: {out.decode()} {err.decode()}"
    return out.decode() + (err.decode() if code else "")


async def kigi_json(plane: ControlPlane, *arguments: str, code: int = 0) -> Any:
    answer = json.loads(await kigi(plane, *arguments, "-o", "json", code=code))
    check_shape(arguments, answer)
    if arguments[0] == "why":
        record(answer)
    return answer


async def test_plan_shows_what_the_operator_then_does(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, tmp_path: Path
) -> None:
    """The figures before a deployment and before a switch are those of the status afterwards."""
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all([*trees(), deployment(replicas=2, prefetchRefs=[{"name": "restored"}])]))

    async with OperatorRun(operator_kubeconfig):
        await wait_reported(kube, actors.alive)
        (planned,) = await kigi_json(plane, "plan", "-f", str(file), "-n", ns)
        assert await get_deployment(kube, ns) is None, "a plan changes nothing"
        assert {machine["action"] for machine in planned["machines"]} == {"create"}
        assert len(planned["machines"]) == 6
        apply(plane, ns, *trees(), deployment(replicas=2))
        status = (await wait_ready(kube, ns))["status"]
        for field in ("totalBytes", "missingBytes"):
            assert planned[field] == status["plan"][field], field
        assert sum(node["missingBytes"] for node in planned["nodes"]) == status["plan"]["missingBytes"]
        instances = await get_instances(kube, ns)
        where = {(name, m["name"]): m["nodeName"] for name, i in instances.items() for m in i["status"]["machines"]}
        # The instances are made at the same time: which of two equal ones is placed first is open.
        assert by_instance({(m["instance"], m["name"]): m["node"] for m in planned["machines"]}) == by_instance(where)

        (planned,) = await kigi_json(plane, "plan", "class", "--system", "cleaned", "-n", ns)
        assert {machine["action"] for machine in planned["machines"]} == {"restart on a fresh disk"}
        apply(plane, ns, deployment(state="cleaned", replicas=2))
        status = (await wait_ready(kube, ns))["status"]
        assert planned["missingBytes"] == status["plan"]["missingBytes"]
        assert "does not" not in await kigi(plane, "plan", "class", "-n", ns)
        await wait_gone(plane, kube, ns)


async def test_a_missing_right_is_named_with_the_role_that_grants_it(
    plane: ControlPlane, kube: KubeClient, ns: str
) -> None:
    plane.kubectl("apply", "-f", str(REPOSITORY / "manifests/rbac/users.yaml"))
    reader = str(plane.user_kubeconfig("reader", []))
    plane.kubectl("create", "rolebinding", "reader", "--clusterrole=kigi-view", "--user=reader", "-n", ns)
    apply(plane, ns, *trees(1), deployment())
    assert "office" not in await kigi(plane, "tree", "-n", ns, "--kubeconfig", reader), "its namespace is read"
    said = await kigi(plane, "tree", "-A", "--kubeconfig", reader, code=1)
    assert "list these in all namespaces: vmimagenodes.kigi.dev; ClusterRole kigi-cluster-view" in said
    said = await kigi(plane, "plan", "class", "-n", ns, "--kubeconfig", reader, code=1)
    for right in ("nodes", "csinodes.storage.k8s.io", "persistentvolumes", "virtualmachines.kubevirt.io"):
        assert right in said
    assert "ClusterRole kigi-cluster-view gives it" in said
    plane.kubectl("create", "clusterrolebinding", f"reader-{ns}", "--clusterrole=kigi-cluster-view", "--user=reader")

    async def planned() -> bool:
        process = await start_kigi(plane, "plan", "class", "-n", ns, "--kubeconfig", reader)
        return await process.wait() == 0

    await eventually_async(planned, 10)
    plane.kubectl("delete", "clusterrolebinding", f"reader-{ns}")
    plane.kubectl("delete", "systemdeployment", "class", "-n", ns)


async def test_switch_and_reset_write_fields_under_their_own_manager(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(), deployment(replicas=2))  # server-side: system and replicas are kubectl's
        await wait_ready(kube, ns)
        said = await kigi(plane, "switch", "class", "cleaned", "--yes", "-n", ns, code=1)
        assert "spec.systemRef" in said
        assert "kept by" in said
        await kigi(plane, "switch", "class", "cleaned", "--instance", "1", "--yes", "--wait", "60", "-n", ns)
        await wait_ready(kube, ns)
        states = {name: one["status"]["systemName"] for name, one in (await get_instances(kube, ns)).items()}
        assert states == {"1": "cleaned", "2": "infected"}
        done = await kigi_json(plane, "switch", "class", "restored", "2", "m1", "--yes", "--wait", "60", "-n", ns)
        assert done == {
            "kind": "SystemInstance",
            "namespace": ns,
            "name": "class-2",
            "field": "spec.machines[m1].systemRef",
            "value": "restored",
            "alsoOwnedBy": [],
            "ready": True,
        }
        status = (await get_instances(kube, ns))["2"]["status"]
        assert {m["name"]: m["revision"] for m in status["machines"]} == {"m0": 1, "m1": 2, "m2": 1}
        entry = status["history"][-1]
        assert (entry["action"], entry["requestedBy"], entry["machines"]) == ("Switched", "kigi-cli", ["m1"])
        # The file, applied again, does not touch the instances.
        apply(plane, ns, deployment(replicas=2))
        assert (await get_instances(kube, ns))["1"]["spec"]["systemRef"] == {"name": "cleaned"}
        await kigi(plane, "switch", "class", "cleaned", "--yes", "--force", "--wait", "60", "-n", ns)
        assert "Switched" in await kigi(plane, "status", "class", "-n", ns)
        for wrong, words in {
            ("switch", "class", "cleaned", "--instance", "7"): "instance 7 does not exist: class has 1,2",
            ("switch", "class", "cleaned", "--instance", "1", "--machine", "nobody"): "no machine nobody",
            ("switch", "class", "nowhere", "--instance", "1"): "no SystemNode",
            ("reset", "nothing"): "no SystemDeployment",
        }.items():
            assert words in await kigi(plane, *wrong, "-n", ns, code=1)
        await wait_gone(plane, kube, ns)


async def test_tree_diff_and_status_show_what_there_is(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        (space,) = await kigi_json(plane, "tree", "-n", ns)
        images = {image["name"]: image for image in space["images"]}
        assert images["infected-0"]["parent"] == "role-0"
        assert images["infected-0"]["chainBytes"] == 3 * 2**20
        node = (await get_instances(kube, ns))["1"]["status"]["machines"][0]["nodeName"]
        assert node in images["infected-0"]["cachedOn"]
        systems = {system["name"]: system for system in space["systems"]}
        assert systems["infected"]["deployments"] == ["class"]
        assert systems["cleaned"]["addedBytes"] == 2**20
        text = await kigi(plane, "tree", "-n", ns)
        assert "infected" in text
        assert "class" in text
        found = await kigi_json(plane, "diff", "infected..cleaned", "-n", ns)
        assert [(m["name"], m["to"]) for m in found["machines"]] == [("m0", "cleaned-0")]
        assert (found["movedBytes"], found["backBytes"]) == (2**20, 0)
        (one,) = await kigi_json(plane, "status", "-n", ns)
        assert one["ready"]
        assert one["cachedPercent"] == 100
        assert "class" in await kigi(plane, "status", "-A")
        assert "class is ready" in await kigi(plane, "why", "class", "-n", ns)
        await wait_gone(plane, kube, ns)


async def test_why_follows_a_cause_to_where_it_comes_from(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig):
        objects = trees(1)
        base = [item for item in objects if item["metadata"]["name"] == "base"]
        apply(plane, ns, *(item for item in objects if item not in base), deployment())

        async def said() -> Any:
            found = await kigi_json(plane, "why", "class", "-n", ns, code=3)
            return found if found[0]["reason"] == "ImageMissing" else None

        (found,) = await eventually_async(said, 30)
        assert found["object"] == "SystemDeployment/class"
        assert "kigi publish" in found["remedy"]
        assert found["because"][0]["object"] == "SystemNode/infected"
        image = found["because"][0]["because"][0]
        assert image["object"] == "VMImageNode/infected-0"
        assert "base" in image["message"]
        assert "kigi publish" in await kigi(plane, "why", "-n", ns, code=3)
        assert "no SystemNode nothing" in await kigi(plane, "why", "ksys/nothing", "-n", ns, code=1)
        apply(plane, ns, *base)
        await wait_ready(kube, ns)
        assert await kigi_json(plane, "why", "class", "-n", ns) == []
        await wait_gone(plane, kube, ns)


async def test_why_names_a_layer_that_a_node_refuses(plane: ControlPlane, kube: KubeClient, ns: str) -> None:
    """No operator: what is stored is what is explained."""
    cache = node_cache(f"why-{ns}")
    await kube.create(NODE_CACHE, cache)
    message = "the repository answers 403"
    layer = {"digest": "sha256:" + "1" * 64, "state": "Refused", "reason": "AccessDenied", "message": message}
    await status_of(kube, NODE_CACHE, None, f"why-{ns}", conditions("AccessDenied", message, layers=[layer]))
    apply(plane, ns, deployment(), instance("1"))
    machine = {"name": "m0", "state": "Warming", "nodeName": f"why-{ns}"}
    await status_of(kube, INSTANCE, ns, "class-1", conditions("AccessDenied", message, machines=[machine]))
    await status_of(kube, DEPLOYMENT, ns, "class", conditions("AccessDenied", message, unreadyInstances=["1"]))
    (found,) = await kigi_json(plane, "why", "class", "-n", ns, code=3)
    assert found["because"][0]["object"] == "SystemInstance/class-1"
    (below,) = found["because"][0]["because"]
    assert below["object"] == f"NodeCache/why-{ns}"
    assert below["because"][0]["object"].startswith("layer sha256:1111")
    assert "its LayerRepository" in below["because"][0]["remedy"]
    await kube.delete(NODE_CACHE, None, f"why-{ns}")
    assert not await is_ready(kube, ns)
    plane.kubectl("delete", "systemdeployment/class", "systeminstance/class-1", "-n", ns)


async def status_of(kube: KubeClient, resource: Any, namespace: str | None, name: str, status: Any) -> None:
    body = await kube.get(resource, namespace, name)
    assert body is not None
    generation = {"observedGeneration": body["metadata"]["generation"]}
    await kube.write_status(resource, namespace, name, body["metadata"]["uid"], {**status, **generation})


def conditions(reason: str, message: str, **more: Any) -> Mapping[str, Any]:
    now = "2026-01-01T00:00:00Z"
    said = [
        {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": now}
        for kind, value in (("Ready", "False"), ("Stalled", "True"))
    ]
    return {"conditions": said, **more}


async def test_capture_from_the_command_line(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str
) -> None:
    async with OperatorRun(operator_kubeconfig, requests=actors.vmi_request):
        apply(plane, ns, *trees(2), deployment())
        await wait_ready(kube, ns)
        done = await kigi_json(
            plane, "capture", "class", "--instance", "1", "--name", "after", "--machine", "m1", "--wait", "60", "-n", ns
        )
        assert (done["kind"], done["name"], done["ready"]) == ("SystemCapture", "after", True)
        found = await kigi_json(plane, "diff", "infected..after", "-n", ns)
        assert [machine["name"] for machine in found["machines"]] == ["m1"]
        assert "no SystemDeployment" in await kigi(
            plane, "capture", "x", "--instance", "0", "--name", "y", "-n", ns, code=1
        )
        await wait_gone(plane, kube, ns)


async def test_completion_offers_names(plane: ControlPlane, ns: str) -> None:
    apply(plane, ns, deployment("office"), deployment("other"))
    env = {
        **os.environ,
        "KUBECONFIG": str(plane.kubeconfig),
        "_KIGI_COMPLETE": "bash_complete",
        "COMP_WORDS": f"kigi reset -n {ns} of",
        "COMP_CWORD": "4",
    }
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "kigi"), env=env, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().split() == ["plain,office"]
    assert "_KIGI_COMPLETE=bash_complete" in await kigi(plane, "completion", "bash")
    plane.kubectl("delete", "systemdeployment", "--all", "-n", ns)


async def test_no_cluster_is_one_clear_line(tmp_path: Path) -> None:
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kigi.cli.main", "status", env=env, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().splitlines()[-1].startswith("kigi: SpecInvalid: no cluster is configured")


def by_instance(nodes: Mapping[tuple[str, str], str]) -> list[list[tuple[str, str]]]:
    """(machine, node) of each instance, without the instances' names."""
    found: dict[str, list[tuple[str, str]]] = {}
    for (name, machine), node in sorted(nodes.items()):
        found.setdefault(name, []).append((machine, node))
    return sorted(found.values())
