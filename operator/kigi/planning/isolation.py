"""One NetworkPolicy for each instance: its VMs talk with each other and with nobody else.

Policies add up: whoever wants an exception (a DNS server, a scoring host) applies one more policy for the same VMs. The
cluster's network plugin has to enforce NetworkPolicies; the API server takes them in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any, Final

from kigi.domain import names
from kigi.planning.manifests import Owner, instance_labels, owner_reference
from kigi.planning.steps import ApplyObject, DeleteObject, Step
from kigi.planning.view import DeploymentView

KIND: Final = "NetworkPolicy"


def policy_name(deployment: str, instance: int) -> str:
    """Name of an instance's NetworkPolicy."""
    return f"{deployment}-{instance}"


def build_policy(owner: Owner, instance: int) -> dict[str, Any]:
    """The NetworkPolicy of one instance; VMs' pods carry the same labels."""
    labels = instance_labels(owner, instance)
    same = [{"podSelector": {"matchLabels": labels}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": KIND,
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
    """Policies that are absent or changed, and those that nobody wishes any more."""
    wanted = instances if view.spec.isolation == "Instances" else frozenset()
    present = {policy.instance: policy for policy in view.policies if view.owns(policy)}
    for instance in sorted(wanted):
        policy = present.get(instance)
        manifest = build_policy(owner, instance)
        if policy is None or (not policy.meta.deleting and policy.spec != manifest["spec"]):
            yield ApplyObject(manifest)
    for instance, policy in sorted(present.items()):
        if instance not in wanted and not policy.meta.deleting:
            yield DeleteObject(KIND, policy.meta.name, view.namespace)


def is_isolated(view: DeploymentView, instance: int) -> bool:
    """The instance's VMs may start: its policy is there, or none is wished."""
    if view.spec.isolation != "Instances":
        return True
    return any(
        policy.instance == instance and view.owns(policy) and not policy.meta.deleting for policy in view.policies
    )
