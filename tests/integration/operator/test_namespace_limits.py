"""A namespace with more content than the operator keeps of one: what does not fit is stalled, others are served."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import SYSTEM
from kigi.mirror import limits
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, image, machine, system
from tests.support.operator_run import OperatorRun
from tests.support.why import explained

from .test_deep_objects import condition_of

LIMIT_BYTES = 250_000
"""Enough for what the other tests left in the namespaces of this server: they do not become part of this one."""


def large(name: str) -> dict[str, Any]:
    """A state of about 110,000 bytes: two of them fit."""
    patch = {"merge": {"metadata": {"annotations": {"text": "x" * 4000}}}}
    return system(name, None, [machine(f"m{n}", "base", patch=patch) for n in range(27)])


@pytest.mark.why("NamespaceTooLarge")
async def test_what_does_not_fit_is_stalled_until_there_is_space(
    plane: ControlPlane, operator_kubeconfig: str, kube: KubeClient, ns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_NAMESPACE_BYTES", LIMIT_BYTES)
    other = f"{ns}-other"
    plane.kubectl("create", "namespace", other)

    async def refused() -> bool:
        found = await condition_of(kube, ns, SYSTEM, "s3", "Stalled")
        return found.get("reason") == "NamespaceTooLarge" and "use more namespaces" in found["message"]

    async def is_ready(namespace: str, name: str) -> bool:
        return (await condition_of(kube, namespace, SYSTEM, name, "Ready")).get("status") == "True"

    async with OperatorRun(operator_kubeconfig):
        for item in (image("base"), large("s1"), large("s2"), large("s3")):
            apply(plane, ns, item)
        apply(plane, other, image("base"), large("s1"))
        await eventually_async(refused, 60, "the third state is stalled")
        assert "namespaces" in explained("NamespaceTooLarge")["remedy"]
        await eventually_async(lambda: is_ready(other, "s1"), 60, "another namespace has its own limit")
        plane.kubectl("delete", "systemnode", "s1", "-n", ns)
        await eventually_async(lambda: is_ready(ns, "s3"), 40, "it is read at the next resync")
    plane.kubectl("delete", "namespace", other, "--wait=false")
