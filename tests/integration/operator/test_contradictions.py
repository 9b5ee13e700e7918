"""One digest in two namespaces: the object that contradicts what is known is stalled, and the other is not affected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import IMAGE
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, image
from tests.support.operator_run import OperatorRun
from tests.support.why import explained

from .test_deep_objects import condition_of, is_ready


@pytest.mark.why("LayerContradiction")
async def test_the_later_object_is_stalled_and_learns_nothing(
    plane: ControlPlane, operator_kubeconfig: str, kube: KubeClient, ns: str
) -> None:
    other = f"{ns}-second"
    plane.kubectl("create", "namespace", other)

    async def stalled() -> bool:
        return (await condition_of(kube, other, IMAGE, "mail", "Stalled")).get("reason") == "LayerContradiction"

    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, image("base"), image("mail", "base"))
        await eventually_async(lambda: is_ready(kube, ns, "mail"), 20, "the first image is Ready")
        # Creation times have whole seconds: of two objects of one second, either may count as the later.
        created = datetime.fromisoformat((await kube.get(IMAGE, ns, "mail"))["metadata"]["creationTimestamp"])
        await eventually_async(lambda: datetime.now(UTC) > created + timedelta(seconds=1), what="the next second")
        apply(plane, other, image("mail"))  # the same digest as a root
        await eventually_async(stalled, 20, "the second image is stalled")
        found = await condition_of(kube, other, IMAGE, "mail", "Stalled")
        assert "spec.parentRef: it contradicts what is known of the layer" in found["message"]
        assert ns not in found["message"].replace(other, "")
        assert "kigi publish" in explained("LayerContradiction")["remedy"]
        assert await is_ready(kube, ns, "mail"), "the first one is not affected"
    plane.kubectl("delete", "namespace", other, "--wait=false")
