"""Estimated cost of the CEL rules: each CRD is still accepted when the limits of its lists and texts are doubled.

The API server refuses a CRD whose rules could cost too much: 10^7 per rule and 10^8 in all, estimated from the limits
of lists, maps and texts. Rules cannot be tightened after a release, so that there must be headroom.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest

from localcluster.controlplane import ControlPlane
from tests.support.raw_api import Object, RawApi
from tools.crdgen import KINDS, build_crd

PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
LIMITS = ("maxItems", "maxLength", "maxProperties")
IDS = {"ids": lambda kind: kind.__name__}
WIDEST = 2**20


@pytest.fixture(scope="module")
def server(api: ControlPlane) -> RawApi:
    return RawApi(api.kubeconfig)


def widened(node: Any, factor: int) -> Any:
    """The schema with all limits multiplied."""
    if isinstance(node, list):
        return [widened(item, factor) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: value * factor if key in LIMITS and isinstance(value, int) else widened(value, factor)
        for key, value in node.items()
    }


def under_another_name(kind: type, factor: int) -> Object:
    """The CRD of a test group, so that the one in use is not touched."""
    crd = copy.deepcopy(build_crd(kind))
    (version,) = crd["spec"]["versions"]
    version["schema"] = widened(version["schema"], factor)
    crd["spec"]["group"] = "cost.example.org"
    crd["metadata"]["name"] = f"{crd['spec']['names']['plural']}.cost.example.org"
    crd["spec"]["names"].pop("categories")
    return crd


def refusal(server: RawApi, kind: type, factor: int) -> str:
    """What the API server objects to; empty: nothing."""
    reply = server.create(PATH, under_another_name(kind, factor), dryRun="All")
    return "" if reply.code == 201 else reply.message


def factors() -> Iterator[int]:
    factor = 2
    while factor <= WIDEST:
        yield factor
        factor *= 2


@pytest.mark.parametrize("kind", KINDS, **IDS)
def test_doubled_limits_are_accepted(server: RawApi, kind: type, record_property: Any) -> None:
    assert refusal(server, kind, 1) == ""
    assert refusal(server, kind, 2) == "", "rules that run over a list or a text need a lower limit or a simpler rule"
    headroom = 2
    for factor in factors():
        if message := refusal(server, kind, factor):
            assert re.search("cost|budget|exceed", message), message
            break
        headroom = factor
    record_property("headroom", headroom)
    print(f"{kind.__name__}: limits may grow {headroom} times")


def test_an_expensive_rule_is_refused(server: RawApi) -> None:
    """The estimate itself works: a rule over three nested lists of 10,000 items costs too much."""
    (kind,) = [kind for kind in KINDS if kind.__name__ == "VMImageNode"]
    crd = under_another_name(kind, 1)
    texts = {"type": "array", "maxItems": 10_000, "items": {"type": "string", "maxLength": 1000}}
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["texts"] = texts | {
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, self.all(c, a != b || b != c)))"}]
    }
    reply = server.create(PATH, crd, dryRun="All")
    assert reply.code == 422
    assert "estimated rule cost" in reply.message
