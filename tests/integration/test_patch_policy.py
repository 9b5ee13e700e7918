"""The free-form part of a state is bounded before it is stored: the admission policy on a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kigi.api.system import MAX_MACHINES_OF_STATE
from kigi.domain.machine_patch import MAX_BYTES, MAX_DEPTH, patch_problem
from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.raw_api import RawApi, Reply

ROOT = Path(__file__).parents[2]
STATES = f"/apis/{API_VERSION}/namespaces/default/systemnodes"
WORDS = "it must be at most 16 levels deep, with at most 256 entries in a map or list and texts of at most 16 KiB"


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> Iterator[RawApi]:
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/rbac/patches.yaml"))
    client = RawApi(crds.kubeconfig)
    deep = [domain(nested(17))]
    eventually(lambda: WORDS in create(client, deep).message, what="the policy is in force")
    yield client
    crds.kubectl("delete", "-f", str(ROOT / "manifests/rbac/patches.yaml"))


def create(server: RawApi, merges: list[dict[str, Any]], *, dry: bool = True) -> Reply:
    machines = [
        {"name": f"m{n}", "rootDisk": {"imageRef": {"name": "x"}}, "patch": {"merge": merge}}
        for n, merge in enumerate(merges)
    ]
    body = {"apiVersion": API_VERSION, "kind": "SystemNode", "metadata": {"generateName": "patch-"}}
    return server.call("POST", STATES + ("?dryRun=All" if dry else ""), {**body, "spec": {"machines": machines}})


def domain(value: Any) -> dict[str, Any]:
    return {"spec": {"domain": value}}


def nested(levels: int) -> dict[str, Any]:
    """A map that makes ``domain(it)`` so many levels deep."""
    found: dict[str, Any] = {"a": 1}
    for _ in range(levels - 3):
        found = {"a": found}
    return found


NORMAL: dict[str, Any] = {
    "metadata": {"annotations": {f"example.org/{n}": "x" * 50 for n in range(20)}},
    "spec": {
        "domain": {
            "cpu": {"features": [{"name": f"feature-{n}", "policy": "require"} for n in range(40)]},
            "devices": {"interfaces": [{"name": f"net-{n}", "model": "virtio"} for n in range(10)]},
        },
        "volumes": [{"name": f"volume-{n}", "configMap": {"name": "x"}} for n in range(20)],
    },
}


def test_policy_and_operator_have_the_same_depth(server: RawApi) -> None:
    assert create(server, [domain(nested(MAX_DEPTH))]).code == 201
    assert patch_problem(domain(nested(MAX_DEPTH))) is None
    refused = create(server, [NORMAL, domain(nested(MAX_DEPTH + 1))])
    assert refused.code == 422
    assert WORDS in refused.message
    assert patch_problem(domain(nested(MAX_DEPTH + 1))) is not None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"a": [{}] * 300}, id="long-list"),
        pytest.param({"a": [{}] * 440_000}, id="as-long-as-a-request"),
        pytest.param({f"k{n}": 1 for n in range(300)}, id="wide-map"),
        pytest.param({"a": "x" * (MAX_BYTES + 1)}, id="long-text"),
        pytest.param({"a": [[[{}] * 250] * 250] * 5}, id="many-values"),
        pytest.param({"a": [[[[[[1]]]]]] * 16000}, id="deep-lists"),
    ],
)
def test_what_costs_memory_is_refused(server: RawApi, value: dict[str, Any]) -> None:
    assert len(json.dumps(value, separators=(",", ":"))) < 1_500_000
    refused = create(server, [domain(value)])
    assert refused.code in (403, 422)
    assert "kigi-patches" in refused.message


def test_the_largest_normal_state_is_accepted_and_edited(server: RawApi) -> None:
    stored = create(server, [NORMAL] * MAX_MACHINES_OF_STATE, dry=False)
    assert stored.code == 201, stored.message
    name = stored.body["metadata"]["name"]
    assert server.patch(f"{STATES}/{name}", {"metadata": {"finalizers": ["example.org/a"]}}).code == 200
    assert server.patch(f"{STATES}/{name}", {"spec": {"description": "later"}}).code == 200
    assert server.patch(f"{STATES}/{name}", {"metadata": {"finalizers": None}}).code == 200
    assert server.delete(f"{STATES}/{name}").code == 200
