"""Kigi's admission policies: present, bound, and enforced."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.adapters.kubernetes.installation import POLICY_BINDING, VALIDATING_POLICY
from kigi.doctor.facts import Body, Facts
from kigi.doctor.findings import Diagnosis

POLICIES = (
    "kigi-access",
    "kigi-capture",
    "kigi-disk-users",
    "kigi-instance-identity",
    "kigi-node-cache",
    "kigi-node-events",
    "kigi-node-lease",
    "kigi-operator-writes",
    "kigi-patches",
    "kigi-pinned-prefetch",
    "kigi-reset",
    "kigi-status-writers",
)
"""ValidatingAdmissionPolicies of manifests/rbac; each has a binding."""
REMEDY = "kubectl apply --server-side -k manifests/rbac"


def check_policies(facts: Facts) -> Iterator[Diagnosis]:
    """One finding for each policy that does not protect, or one for all."""
    policies, bindings = facts.of(VALIDATING_POLICY), facts.of(POLICY_BINDING)
    if why := policies.unread or bindings.unread:
        yield Diagnosis("policies", "not checked", "ValidatingAdmissionPolicy", why)
        return
    bad = False
    for name in POLICIES:
        bound = [each for each in bindings.items if each["spec"].get("policyName") == name]
        for problem in _problems(policies.find(name), bound):
            bad = True
            yield Diagnosis("policies", "error", f"ValidatingAdmissionPolicy/{name}", problem, REMEDY)
    if not bad:
        text = f"{len(POLICIES)} policies are bound and deny"
        yield Diagnosis("policies", "ok", "ValidatingAdmissionPolicy", text)


def _problems(policy: Body | None, bindings: list[Body]) -> Iterator[str]:
    if policy is None:
        yield "it does not exist: what it forbids is permitted"
        return
    if not bindings:
        yield "no ValidatingAdmissionPolicyBinding names it: what it forbids is permitted"
    elif not any("Deny" in (each["spec"].get("validationActions") or ()) for each in bindings):
        yield "its binding does not have the action Deny: what it forbids is permitted"
    elif all(each["spec"].get("matchResources") for each in bindings):
        yield "its binding is restricted by matchResources: elsewhere, what it forbids is permitted"
    if policy["spec"].get("failurePolicy") == "Ignore":
        yield "spec.failurePolicy is Ignore: a request that it cannot check is permitted"
    warnings = ((policy.get("status") or {}).get("typeChecking") or {}).get("expressionWarnings") or ()
    if warnings:
        yield f"{warnings[0].get('fieldRef')} does not suit this cluster: {_first_line(warnings[0].get('warning'))}"


def _first_line(text: object) -> str:
    return str(text or "").strip().partition("\n")[0]
