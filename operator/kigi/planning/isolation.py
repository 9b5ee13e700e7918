"""One NetworkPolicy per instance: its VMs reach each other and nothing else.

Policies add up: for an exception (a DNS server, a scoring host) users apply another policy for the same VMs. The
cluster's network plugin has to enforce NetworkPolicies; the API server accepts them in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kigi.domain import kinds, names
from kigi.planning.manifests import instance_labels, owner_reference
from kigi.planning.placed import Owner
from kigi.planning.steps import ApplyObject, DeleteObject, Step
from kigi.planning.view import InstanceView


def build_policy(owner: Owner) -> dict[str, Any]:
    """The NetworkPolicy of one instance, with its name; VMs' pods carry the same labels."""
    labels = instance_labels(owner)
    same = [{"podSelector": {"matchLabels": labels}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": kinds.POLICY,
        "metadata": {
            "name": owner.object_name,
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


def isolation_steps(view: InstanceView, owner: Owner) -> Iterator[Step]:
    """Applies the policy if it is missing or changed, and deletes those that are not needed."""
    desired = build_policy(owner) if view.spec.isolated else None
    present = [policy for policy in view.policies if view.owns(policy)]
    if desired is not None and not any(p.meta.deleting or p.spec == desired["spec"] for p in present):
        yield ApplyObject(desired)
    for policy in present:
        if desired is None and not policy.meta.deleting:
            yield DeleteObject(kinds.POLICY, policy.meta.name, view.namespace)


def may_start(view: InstanceView) -> bool:
    """Whether VMs may start: the instance's policy exists, or it needs none."""
    return not view.spec.isolated or any(view.owns(p) and not p.meta.deleting for p in view.policies)
