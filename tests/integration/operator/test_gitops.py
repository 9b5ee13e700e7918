"""GitOps tools beside the operator: health over a whole life as it happened, and no drift while the operator works."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.adapters.kubernetes.client import KubeClient
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, deployment, trees, wait_gone, wait_ready
from tests.support.gitops import GitOps
from tests.support.operator_run import OperatorRun
from tests.support.raw_api import Object, RawApi
from tools.crdgen import KINDS, build_crd

SAMPLE = Path(__file__).parents[3] / "manifests/gitops/sample"
CRDS = [build_crd(kind)["spec"] for kind in KINDS]


@pytest.fixture(scope="module")
def argo() -> Iterator[GitOps]:
    with GitOps.running() as checker:
        yield checker


def path_of(crd: dict[str, Any], ns: str) -> str:
    scope = f"/namespaces/{ns}" if crd["scope"] == "Namespaced" else ""
    return f"/apis/{crd['group']}/{crd['versions'][0]['name']}{scope}/{crd['names']['plural']}"


class Recorder:
    """Every version of every object whose status the operator writes, as watches report them."""

    def __init__(self, plane: ControlPlane, ns: str) -> None:
        self._api, self._ns = RawApi(plane.kubeconfig), ns
        self._stop = threading.Event()
        self.bodies: list[Object] = []

    def _watch(self, path: str) -> None:
        listed = self._api.get(path).object()
        self.bodies += [
            {**item, "apiVersion": listed["apiVersion"], "kind": listed["kind"][:-4]} for item in listed["items"]
        ]
        version = listed["metadata"]["resourceVersion"]
        while not self._stop.is_set():
            for event in self._api.watch(path, resourceVersion=version, timeoutSeconds="2"):
                assert event["type"] != "ERROR", event
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "DELETED":
                    self.bodies.append(event["object"])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Recorder]:
        """Records until the end of the block. An error of a watch ends the test."""
        paths = [path_of(crd, self._ns) for crd in CRDS if crd["names"]["kind"] != "NodeCache"]  # simulated daemons
        with ThreadPoolExecutor(len(paths)) as threads:
            watches = [threads.submit(self._watch, path) for path in paths]
            try:
                yield self
            finally:
                self._stop.set()
        for watch in watches:
            watch.result()


async def test_argo_cd_and_kstatus_agree_on_a_whole_life_as_it_happened(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, argo: GitOps
) -> None:
    async with Recorder(plane, ns).running() as recorder, OperatorRun(operator_kubeconfig):
        apply(plane, ns, deployment(state="infected"))  # before its trees
        await eventually_async(lambda: any(b["kind"] == "SystemDeployment" for b in recorder.bodies), 20)
        apply(plane, ns, *trees(2))
        await wait_ready(kube, ns)
        apply(plane, ns, deployment(state="cleaned", powerState="Off"))
        await wait_ready(kube, ns)
        apply(plane, ns, deployment(state="cleaned"))
        await wait_ready(kube, ns)
        broken = {"apiVersion": "kigi.dev/v1alpha2", "kind": "SystemReset", "metadata": {"name": "nobody"}}
        reset = {"deploymentRef": {"name": "class"}, "machines": ["unknown"], "requestedBy": "admin"}
        apply(plane, ns, {**broken, "spec": reset})

        async def refused() -> bool:
            return any(
                one["type"] == "Stalled" and one["status"] == "True"
                for body in recorder.bodies
                if body["kind"] == "SystemReset"
                for one in body.get("status", {}).get("conditions", ())
            )

        await eventually_async(refused, 20)
        await wait_gone(plane, kube, ns)
    argo.seen.clear()
    for body in recorder.bodies:
        argo.agree(body)
    assert {
        ("SystemDeployment", "Progressing"),
        ("SystemDeployment", "Healthy"),
        ("SystemDeployment", "Suspended"),
        ("SystemInstance", "Progressing"),
        ("SystemInstance", "Healthy"),
        ("SystemInstance", "Suspended"),
        ("SystemNode", "Healthy"),
        ("VMImageNode", "Healthy"),
        ("SystemReset", "Degraded"),
    } <= argo.seen
    assert not actors.violations


# The sample repository, in its order, with the operator.


def rendered(plane: ControlPlane, folder: str, ns: str) -> list[Object]:
    """Objects of a folder, each in the namespace of this test in place of those of the sample."""
    text = plane.kubectl("kustomize", str(SAMPLE / folder))
    found = []
    for document in yaml.safe_load_all(text.replace("exercises", ns).replace("class-a", ns)):
        if document["kind"] not in ("Namespace", "LayerRepository", "SystemQuota"):
            found.append(document)
    return found


def versions(server: RawApi, ns: str) -> dict[tuple[str, str], tuple[str, int]]:
    found = {}
    for crd in CRDS:
        for body in server.get(path_of(crd, ns)).object()["items"]:
            metadata = body["metadata"]
            found[crd["names"]["kind"], metadata["name"]] = metadata["resourceVersion"], metadata.get("generation", 0)
    return found


WAYS = [(), ("--server-side", "--force-conflicts"), ("--server-side", "--force-conflicts", "--field-manager=flux")]


async def test_nothing_drifts_while_the_operator_works(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, argo: GitOps
) -> None:
    """Each way of applying the sample again, after the operator has worked on it: no change of any object."""
    server = RawApi(plane.kubeconfig)
    async with OperatorRun(operator_kubeconfig):
        documents: list[Object] = []
        for folder in ("3-trees", "4-class"):
            found = rendered(plane, folder, ns)
            plane.kubectl("apply", "-f", "-", input_text=yaml.safe_dump_all(found))
            documents += found
        await wait_ready(kube, ns, "office")
        text = yaml.safe_dump_all(documents)

        async def unchanged(flags: tuple[str, ...]) -> bool:
            """Between two reports of the operator, applying again changes no version."""
            before = versions(server, ns)
            await asyncio.to_thread(plane.kubectl, "apply", *flags, "-f", "-", input_text=text)
            return versions(server, ns) == before

        for flags in WAYS:
            await asyncio.to_thread(plane.kubectl, "apply", *flags, "-f", "-", input_text=text)
            await eventually_async(lambda flags=flags: unchanged(flags), 30, f"no change by apply {flags}")
        for document in documents:
            crd = next(each for each in CRDS if each["names"]["kind"] == document["kind"])
            live = server.get(f"{path_of(crd, ns)}/{document['metadata']['name']}").object()
            assert live["metadata"]["generation"] == 1, (document["metadata"], live["spec"])
            assert live["spec"] == document["spec"], "the operator or the API server wrote into the spec"
            assert not argo.is_out_of_sync(document, live), document["metadata"]["name"]
            assert argo.judge(live)["health"] == "Healthy", json.dumps(live["status"])
        await wait_gone(plane, kube, ns, "office")
    assert not actors.violations
