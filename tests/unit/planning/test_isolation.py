"""Isolation of instances by NetworkPolicies."""

from __future__ import annotations

from typing import Any

from kigi.planning.steps import ApplyObject
from tests.support.worlds import World, deployment_spec


def world(**fields: Any) -> World:
    return World(deployment_spec("a", **fields))


def kinds(w: World) -> set[str]:
    return {step.manifest["kind"] for step in w.plan().steps if isinstance(step, ApplyObject)}


def test_no_vm_is_created_before_its_instance_is_isolated() -> None:
    w = world(isolation={"mode": "Instance"}, replicas=2)
    for node in w.nodes.values():
        node.held = {image.digest for image in w.images.values()}
    assert kinds(w) == {"NetworkPolicy", "PersistentVolume", "PersistentVolumeClaim"}
    w.settle()
    w.check_settled()
    policy = w.policies["dep-1"]["spec"]
    labels = policy["podSelector"]["matchLabels"]
    assert labels.items() <= w.vms["dep-1-web"].manifest["spec"]["template"]["metadata"]["labels"].items()
    assert not labels.items() <= w.vms["dep-0-web"].manifest["spec"]["template"]["metadata"]["labels"].items()
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]
    assert policy["egress"] == [{"to": [{"podSelector": {"matchLabels": labels}}]}]


def test_a_changed_policy_is_corrected_and_an_unneeded_one_deleted() -> None:
    w = world(isolation={"mode": "Instance"})
    w.settle()
    right = w.policies["dep-0"]
    w.policies["dep-0"] = {**right, "spec": {"podSelector": {}}}
    w.settle()
    assert w.policies["dep-0"] == right
    w.change(isolation={"mode": "None"})
    w.settle()
    assert w.policies == {}
    w.check_settled()
