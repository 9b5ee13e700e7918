"""Objects that are nested as deeply as the API server accepts harm nobody but their owner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM
from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, image, machine, system
from tests.support.operator_run import OperatorRun

DEEPEST = 9960
"""The API server decodes 10,000 levels; the object has some above the patch's free part."""


def create_deep(plane: ControlPlane, folder: Path, ns: str, depth: int) -> None:
    """A state whose patch has that many levels. It is written as a text: Python cannot encode it."""
    deep = '{"a":' * depth + "1" + "}" * depth
    merge = '{"spec":{"domain":' + deep + "}}"
    machines = '[{"name":"m","rootDisk":{"imageRef":{"name":"base"}},"patch":{"merge":' + merge + "}}]"
    head = {"apiVersion": API_VERSION, "kind": "SystemNode", "metadata": {"name": f"deep-{depth}"}}
    file = folder / f"{depth}.json"
    file.write_text(json.dumps(head)[:-1] + ',"spec":{"machines":' + machines + "}}")
    path = f"/apis/{API_VERSION}/namespaces/{ns}/systemnodes"
    plane.kubectl("create", "--raw", path, "-f", str(file))


async def condition_of(kube: KubeClient, ns: str, resource: Any, name: str, kind: str) -> dict[str, Any]:
    body = await kube.get(resource, ns, name) or {}
    found = [each for each in body.get("status", {}).get("conditions", ()) if each["type"] == kind]
    return found[0] if found else {}


async def is_ready(kube: KubeClient, ns: str, name: str) -> bool:
    return (await condition_of(kube, ns, IMAGE, name, "Ready")).get("status") == "True"


@pytest.mark.parametrize("depth", [30, 900, 5000, DEEPEST])
async def test_a_deep_patch_stalls_its_state_and_nothing_else(
    plane: ControlPlane, operator_kubeconfig: str, kube: KubeClient, ns: str, tmp_path: Path, depth: int
) -> None:
    name = f"deep-{depth}"

    async def stalled() -> bool:
        return (await condition_of(kube, ns, SYSTEM, name, "Stalled")).get("status") == "True"

    try:
        async with OperatorRun(operator_kubeconfig):
            apply(plane, ns, image("base"), system("flat", None, [machine("m", "base")]))
            create_deep(plane, tmp_path, ns, depth)
            await eventually_async(stalled, 20, "the deep state is Stalled")
            found = await condition_of(kube, ns, SYSTEM, name, "Stalled")
            assert found["reason"] == "SpecInvalid"
            assert (
                "spec.machines[m].patch.merge: it is more than 16 levels deep; use a flatter patch" in found["message"]
            )
            apply(plane, ns, image("after"))
            await eventually_async(lambda: is_ready(kube, ns, "after"), 20, "a later image is Ready")
        # The next operator reads the object from a listing.
        async with OperatorRun(operator_kubeconfig):
            apply(plane, ns, image("next"))
            await eventually_async(lambda: is_ready(kube, ns, "next"), 20, "an image of the next operator is Ready")
    finally:
        plane.kubectl("delete", "systemnode", name, "-n", ns, "--wait=false")
