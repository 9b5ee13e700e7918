"""One NetworkPolicy per instance: its VMs reach each other and nothing else.

Policies add up: for an exception (a DNS server, a scoring host) users apply another policy for the same VMs. The
cluster's network plugin has to enforce NetworkPolicies; the API server accepts them in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from kigi.domain import kinds, names
from kigi.planning.manifests import instance_labels, owner_reference
from kigi.planning.placed import Owner
from kigi.planning.steps import ApplyObject, DeleteObject, Step
from kigi.planning.view import DeploymentView


def policy_name(deployment: str, instance: int) -> str:
    """Name of an instance's NetworkPolicy."""
    return f"{deployment}-{instance}"


def build_policy(owner: Owner, instance: int) -> dict[str, Any]:
    """The NetworkPolicy of one instance; VMs' pods carry the same labels."""
    labels = instance_labels(owner, instance)
    same = [{"podSelector": {"matchLabels": labels}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": kinds.POLICY,
        "metadata": {
            "name": policy_name(owner.name, instance),
            "namespace": owner.namespace,
            "labels": labels,
            "annotations": {names.ANNOTATION_OWNER: owner.uid},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": same}],
            "egress": [{"to": same}],
        },
    }


def isolation_steps(view: DeploymentView, owner: Owner, instances: Set[int]) -> Iterator[Step]:
    """Applies policies that are missing or changed, and deletes those that no instance needs any more."""
    desired = instances if view.spec.isolation == "Instances" else frozenset()
    present = {policy.instance: policy for policy in view.policies if view.owns(policy)}
    for instance in sorted(desired):
        policy = present.get(instance)
        manifest = build_policy(owner, instance)
        if policy is None or (not policy.meta.deleting and policy.spec != manifest["spec"]):
            yield ApplyObject(manifest)
    for instance, policy in sorted(present.items()):
        if instance not in desired and not policy.meta.deleting:
            yield DeleteObject(kinds.POLICY, policy.meta.name, view.namespace)


def isolated_instances(view: DeploymentView) -> frozenset[int] | None:
    """Instances whose policy exists, so that their VMs may start; None: isolation is off, and all may."""
    if view.spec.isolation != "Instances":
        return None
    return frozenset(p.instance for p in view.policies if view.owns(p) and not p.meta.deleting)
