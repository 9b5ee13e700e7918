"""Conversion of SystemCaptures, which must have ended, and of SystemPrefetches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.domain import kinds
from kigi.migration.problems import Body, Findings, without_none

_QUIESCE = {"Auto": "FreezeIfPossible", "Pause": "PauseOnly"}
_ENDED = ("Done", "Failed")
_UNKNOWN_USER = "unknown"
"""v1alpha1 does not record who asked for a capture."""


def convert_capture(old: Body, findings: Findings) -> Body:
    """A SystemCapture that has ended, with the conditions by which it never starts again."""
    spec, status = old["spec"], old.get("status") or {}
    if status.get("phase") not in _ENDED:
        findings.problem(
            old,
            f"status.phase is {status.get('phase') or 'empty'}: wait until it is Done or Failed, or delete the object; "
            "a capture does not survive the migration",
        )
    target = without_none(
        systemName=spec.get("system"),
        description=spec.get("description"),
        repositoryRef={"name": spec["repository"]} if spec.get("repository") else None,
    )
    new = without_none(
        instanceRef={"name": f"{spec['deployment']['name']}-{spec.get('instance', 0)}"},
        machines=spec.get("machines") or None,
        quiescePolicy=_QUIESCE.get(spec.get("quiesce", "")),
        target=target or None,
        requestedBy=_UNKNOWN_USER,
    )
    return {**old, "spec": new, "status": _capture_status(status, old["metadata"])}


def _capture_status(old: Mapping[str, Any], meta: Mapping[str, Any]) -> Body:
    done = old.get("phase") == "Done"
    ready = next((c for c in old.get("conditions") or () if c["type"] == "Ready"), None)
    ended = ready["lastTransitionTime"] if ready else meta["creationTimestamp"]
    message = (ready or {}).get("message") or old.get("failureMessage") or "ended before the migration to v1alpha2"
    reason = (old.get("failure") if not done else None) or ("Complete" if done else "Failed")

    def condition(kind: str, status: bool) -> Body:
        return {
            "type": kind,
            "status": "True" if status else "False",
            "observedGeneration": meta["generation"],
            "lastTransitionTime": ended,
            "reason": reason,
            "message": message,
        }

    conditions = [
        condition("Ready", done),
        condition("Reconciling", False),
        condition("Stalled", not done),
        condition("Captured", done),
        condition("Stored", done),
        condition("Complete", done),
        condition("Failed", not done),
    ]
    return without_none(
        observedGeneration=meta["generation"],
        conditions=conditions,
        systemName=old.get("system"),
        parentName=old.get("parent"),
        startTime=old.get("startedAt") or meta["creationTimestamp"],
        completionTime=ended,
        attempts=old.get("attempt"),
        skewMilliseconds=old.get("skewMilliseconds"),
        pauseMilliseconds=old.get("pauseMilliseconds"),
        addedBytes=old.get("addedBytes"),
    )


def capture_names(captures: list[Body]) -> dict[str, str]:
    """Name of each captured state -> name of the capture, of one namespace."""
    states = (((body.get("status") or {}).get("system") or body["spec"].get("system"), body) for body in captures)
    return {state or body["metadata"]["name"]: body["metadata"]["name"] for state, body in states}


def convert_prefetch(old: Body, findings: Findings) -> Body:
    """A SystemPrefetch."""
    spec = old["spec"]
    if spec.get("nodes") and spec.get("nodeSelector"):
        findings.problem(old, "spec.nodes and spec.nodeSelector: v1alpha2 selects by one of them; delete the other")
    targets = [{"kind": kinds.SYSTEM, "name": ref["name"]} for ref in spec["systems"]]
    nodes = without_none(names=spec.get("nodes") or None, matchLabels=spec.get("nodeSelector") or None)
    new = without_none(
        targetRefs=targets,
        nodes=nodes or None,
        nodeCount=spec.get("count"),
        parallelism=spec.get("parallelism"),
        tolerations=spec.get("tolerations") or None,
        retention="Pinned" if spec.get("pinned") else None,
    )
    return {**old, "spec": new}
