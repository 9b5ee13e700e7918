"""Limits of namespaces."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.adapters.kubernetes.resources import QUOTA
from kigi.doctor.facts import Body, Facts
from kigi.doctor.findings import Diagnosis


def check_quotas(facts: Facts) -> Iterator[Diagnosis]:
    """SystemQuotas that do not hold, or the limits that hold without one."""
    listing = facts.of(QUOTA)
    if not facts.is_installed:
        return
    if listing.unread:
        yield Diagnosis("limits", "not checked", "SystemQuotas", listing.unread)
        return
    for body in listing.items:
        yield from _check(facts, body)
    if not listing.items:
        text = "there is none: one namespace may use three quarters of the nodes' space"
        yield Diagnosis("limits", "ok", "SystemQuotas", text)


def _check(facts: Facts, body: Body) -> Iterator[Diagnosis]:
    name, status = f"SystemQuota/{body['metadata']['name']}", body.get("status") or {}
    ready = next((each for each in status.get("conditions") or () if each["type"] == "Ready"), None)
    if ready is not None and ready["status"] == "False":
        remedy = facts.remedies.get(ready["reason"]) or "correct its spec"
        yield Diagnosis("limits", "error", name, str(ready.get("message") or ready["reason"]), remedy)
    elif status.get("namespaceCount") == 0:
        text = "spec.namespaceSelector selects no namespace: it limits nothing"
        yield Diagnosis("limits", "warning", name, text, "correct its labels, or label the namespaces")
