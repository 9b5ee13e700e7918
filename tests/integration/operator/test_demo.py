"""``kigi demo`` on a real API server, controller manager and S3 server, with simulated nodes and VMs.

No guest runs here, so ``--no-guests``; ``tests/integration/test_demo_guest.py`` boots one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import DEPLOYMENT, IMAGE, INSTANCE, NAMESPACE, SYSTEM, VMI, VOLUME
from kigi.cli.demo.exercise import MACHINES, resolved_images
from kigi.cli.demo.objects import LABEL
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import wait_reported
from tests.support.layers import environment
from tests.support.operator_run import OperatorRun

END_S = 240.0
"""Time in which a run, or its clean-up, ends on a busy machine."""
LINES = (
    "checking the cluster",
    "make layers: begins",
    "publish: begins",
    "deploy infected: begins",
    "switch to cleaned: begins",
    "switch to restored: begins",
    "reset: begins",
    "second instance: begins",
    "clean up: begins",
)


class Demo:
    """Runs ``kigi demo`` against the servers of the test."""

    def __init__(self, kubeconfig: str, s3: S3Server, bucket: str) -> None:
        self._env = {**os.environ, **environment(s3), "KUBECONFIG": kubeconfig, "COLUMNS": "200"}
        self._options = ("--endpoint", s3.endpoint, "--bucket", bucket)
        self.stored = s3.data / bucket

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "kigi.cli.main", "demo", *self._options, *arguments]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command, env=self._env, stdout=pipe, stderr=pipe)

    async def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        process = await self.start(*arguments)
        out, err = await ended(process)
        assert process.returncode == code, f"{process.returncode}: {out.decode()} {err.decode()}"
        return out.decode(), err.decode()

    def layers(self) -> list[Path]:
        """Files of the bucket, also those of unfinished uploads."""
        return [path for path in self.stored.rglob("*") if path.is_file()]


async def ended(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """Output of the process; AssertionError with it if it does not end."""
    reading = asyncio.create_task(process.communicate())
    await asyncio.wait({reading}, timeout=END_S)
    if not reading.done():
        process.kill()
        out, err = await reading
        raise AssertionError(f"kigi demo has not ended after {END_S:.0f} s: {out.decode()} {err.decode()}")
    return reading.result()


@pytest.fixture
async def operator(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient
) -> AsyncIterator[OperatorRun]:
    plane.kubectl("label", "nodes", "--all", "--overwrite", "kubernetes.io/arch=amd64")  # as kubelets do
    async with OperatorRun(operator_kubeconfig) as running:
        await wait_reported(kube, actors.alive)
        yield running


@pytest.fixture
def demo(plane: ControlPlane, s3: S3Server, bucket: str) -> Demo:
    return Demo(str(plane.kubeconfig), s3, bucket)


async def left(kube: KubeClient, demo: Demo) -> list[str]:
    """Everything of any run that exists."""
    found = [f"layer {path.name}" for path in demo.layers()]
    async for body in kube.list_all(NAMESPACE):
        if LABEL in (body["metadata"].get("labels") or {}):
            found.append(f"namespace {body['metadata']['name']}")
    for resource in (IMAGE, SYSTEM, DEPLOYMENT, INSTANCE, VMI, VOLUME):
        async for body in kube.list_all(resource):
            place = f"{body['metadata'].get('namespace')}/{body['metadata']['name']}"
            if "kigi-demo-" in place or "kigi.kigi-demo" in place:
                found.append(f"{resource.kind} {place}")
    return found


async def test_a_run_reports_each_step_and_leaves_nothing(
    operator: OperatorRun, kube: KubeClient, demo: Demo, tmp_path: Path
) -> None:
    out, err = await demo.run("--no-guests", "-o", "json", "--out", str(tmp_path / "report"))
    report = json.loads(out)
    assert [step["name"] for step in report["steps"]] == [
        "deploy infected", "switch to cleaned", "switch to restored", "reset", "second instance"
    ]  # fmt: skip
    assert (report["error"], report["left"], report["kept"]) == (None, [], False)
    moved = [step["moved_bytes"] for step in report["steps"]]
    assert moved == [step["minimum_bytes"] for step in report["steps"]]
    assert moved[3] == 0, "a reset moves nothing"
    deploy, cleaned, restored = report["steps"][:3]
    assert deploy["full_bytes"] > 5 * deploy["moved_bytes"] > 5 * 37_000_000
    assert cleaned["full_bytes"] > 50 * cleaned["moved_bytes"] > 50 * restored["moved_bytes"] > 0
    assert report["publishedBytes"] == 43_646_976
    assert all(name in err for name in LINES)
    assert "elapsed, about" in err
    assert await left(kube, demo) == []
    assert json.loads((tmp_path / "report/report.json").read_text()) == report
    assert "<svg" in (tmp_path / "report/report.svg").read_text()
    assert "| demo | reset | 0.0 |" in (tmp_path / "report/report.md").read_text()


@pytest.mark.parametrize("line", LINES)
async def test_an_interrupted_run_leaves_nothing(
    operator: OperatorRun, kube: KubeClient, demo: Demo, line: str
) -> None:
    process = await demo.start("--no-guests", "-o", "json")
    assert process.stderr is not None
    said = await wait_for(process.stderr, line)
    # Of two ways to interrupt, each step gets one.
    process.send_signal(signal.SIGINT if LINES.index(line) % 2 else signal.SIGTERM)
    out, err = await ended(process)
    assert process.returncode == 130, said + err.decode()
    if line == LINES[-1]:  # the clean-up itself was interrupted: it names what to do
        assert "kigi demo --clean" in err.decode()
        await demo.run("--clean")
    elif line != LINES[0]:
        assert json.loads(out)["error"] == "interrupted"
    assert await left(kube, demo) == []


async def wait_for(stream: asyncio.StreamReader, text: str) -> str:
    said = ""
    while text not in said:
        line = (await stream.readline()).decode()
        assert line, f"no {text!r} in {said}"
        said += line
    return said


@pytest.mark.parametrize("line", [LINES[2], LINES[3], LINES[5]])
async def test_a_killed_run_is_removed_by_clean(operator: OperatorRun, kube: KubeClient, demo: Demo, line: str) -> None:
    process = await demo.start("--no-guests")
    assert process.stderr is not None
    await wait_for(process.stderr, line)
    process.kill()
    await process.communicate()
    assert await left(kube, demo), "the namespace"
    _, err = await demo.run("--clean")
    assert "removed" in err
    assert await left(kube, demo) == []


async def test_a_kept_run_has_ten_machines_until_it_is_removed(
    operator: OperatorRun, kube: KubeClient, demo: Demo
) -> None:
    out, err = await demo.run("--no-guests", "--keep", "-o", "json")
    namespace = json.loads(out)["namespace"]
    assert f"kigi status exercise -n {namespace}" in err
    running = [body async for body in kube.list_all(VMI, namespace)]
    assert len(running) == len(MACHINES) + 2
    found = {body["metadata"]["name"]: body["spec"]["layer"] async for body in kube.list_all(IMAGE, namespace)}
    assert set(resolved_images("restored").values()) < set(found)
    await demo.run("--clean")
    assert await left(kube, demo) == []


async def test_one_step_ends_with_ten_machines(operator: OperatorRun, kube: KubeClient, demo: Demo) -> None:
    out, _ = await demo.run("--no-guests", "--keep", "--steps", "1", "-o", "json")
    report = json.loads(out)
    assert [step["name"] for step in report["steps"]] == ["deploy infected"]
    assert len([body async for body in kube.list_all(VMI, report["namespace"])]) == len(MACHINES) == 10
    await demo.run("--clean")
    assert await left(kube, demo) == []


async def test_a_failed_run_names_the_cause_and_leaves_nothing(
    operator: OperatorRun, actors: Actors, kube: KubeClient, demo: Demo
) -> None:
    actors.hold_layers = True
    try:
        out, err = await demo.run("--no-guests", "--timeout", "3", "-o", "json", code=3)
    finally:
        actors.hold_layers = False
    report: dict[str, Any] = json.loads(out)
    assert "deploy infected: SystemDeployment" in report["error"]
    assert "is not ready after 3 s" in err
    assert await left(kube, demo) == []


async def test_missing_prerequisites_are_all_named_before_anything_is_made(
    operator: OperatorRun, plane: ControlPlane, kube: KubeClient, demo: Demo, s3: S3Server
) -> None:
    trainee = Demo(str(plane.user_kubeconfig("trainee", [])), s3, demo.stored.name)
    _, err = await trainee.run("--no-guests", code=1)
    for words in ("create namespaces", "patch systemdeployments", "list virtualmachineinstances", "an administrator"):
        assert words in err
    nowhere = Demo(str(plane.kubeconfig), s3, "no-such-bucket")
    _, err = await nowhere.run("--no-guests", code=1)
    assert "a repository that you may write" in err
    assert "no-such-bucket does not exist" in err
    plane.kubectl("label", "nodes", "--all", "--overwrite", "kubernetes.io/arch=arm64")
    _, err = await demo.run("--no-guests", code=1)
    assert "a node with the label kubernetes.io/arch=amd64" in err
    assert "it is arm64" in err
    assert await left(kube, demo) == []


async def test_a_namespace_that_the_demo_has_not_made_is_not_deleted(
    plane: ControlPlane, kube: KubeClient, demo: Demo
) -> None:
    plane.kubectl("create", "namespace", "kigi-demo-other")
    plane.kubectl("create", "namespace", "kigi-demo-taken")
    plane.kubectl("label", "namespace", "kigi-demo-taken", f"{LABEL}=other")
    _, err = await demo.run("--clean", code=1)
    assert "the demo has not created it" in err
    assert await kube.get(NAMESPACE, None, "kigi-demo-other") is not None
    plane.kubectl("delete", "namespace", "kigi-demo-other", "kigi-demo-taken")

    async def gone() -> bool:
        return await kube.get(NAMESPACE, None, "kigi-demo-taken") is None

    await eventually_async(gone, 30)
