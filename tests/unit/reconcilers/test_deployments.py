"""Deleting a SystemDeployment whose stored spec this version cannot read."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.adapters.kubernetes.resources import DEPLOYMENT, INSTANCE
from kigi.domain import names
from kigi.mirror.keys import Key
from kigi.reconcilers.deployments import reconcile_deployment
from tests.support.bodies import NAME, NS, deployment_body, instance_body
from tests.support.memory_api import DELETED, MemoryApi, memory_ports


@pytest.mark.parametrize(
    "spec",
    [{"placement": {"strategy": "AsANewerVersionHasIt"}}, {"systemRef": "damaged"}, {"systemRef": {"name": []}}],
)
async def test_its_instances_go_and_then_it_goes(spec: dict[str, Any]) -> None:
    api = MemoryApi()
    ports = memory_ports(api)
    body = {**deployment_body(**spec), "apiVersion": names.API_VERSION}
    body["metadata"]["deletionTimestamp"] = DELETED
    ports.mirror.put(DEPLOYMENT.kind, api.put(body))
    instance = {**instance_body(), "apiVersion": names.API_VERSION}
    instance["metadata"]["finalizers"] = []
    ports.mirror.put(INSTANCE.kind, api.put(instance))

    await reconcile_deployment(ports, Key("deployment", NS, NAME))
    kinds = {manifest["kind"] for manifest in api.objects.values()}
    assert kinds == {DEPLOYMENT.kind}, "the deployment waits for its instances"

    ports.mirror.gone(INSTANCE.kind, NS, instance["metadata"]["name"], "")
    await reconcile_deployment(ports, Key("deployment", NS, NAME))
    assert not api.objects
