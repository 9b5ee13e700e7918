"""kstatus in a few lines: what tools such as ``flux``, ``kubectl wait`` and Argo CD conclude from an object.

Source: sigs.k8s.io/cli-utils, pkg/kstatus/status/generic.go and core.go. The rules in order: an object with a deletion
timestamp is Terminating; a status of another generation is InProgress; the condition Reconciling makes InProgress, and
Stalled makes Failed; last, Ready is True (Current) or not (InProgress). An object without any of these is Current.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

Result = Literal["InProgress", "Failed", "Current", "Terminating"]

_observers: list[Callable[[Mapping[str, Any]], object]] = []


@contextmanager
def observed(observe: Callable[[Mapping[str, Any]], object]) -> Iterator[None]:
    """Call ``observe`` with every object that ``check`` gets; a test compares it with other tools in this way."""
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)


def compute(body: Mapping[str, Any]) -> Result:
    """The status that kstatus computes from an API object; ``tests/integration/test_argocd.py`` compares it."""
    metadata, status = body["metadata"], body.get("status", {})
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration", metadata.get("generation")) != metadata.get("generation"):
        return "InProgress"
    conditions = {item["type"]: item["status"] for item in status.get("conditions", ())}
    for name, value in conditions.items():  # of several that are True, the first one counts
        if (name, value) == ("Reconciling", "True"):
            return "InProgress"
        if (name, value) == ("Stalled", "True"):
            return "Failed"
    if "Ready" in conditions:
        return "Current" if conditions["Ready"] == "True" else "InProgress"
    return "Current"


def check(body: Mapping[str, Any]) -> Result:
    """``compute``, after the promises of docs/concepts.md: exactly one of the three is True, and all are current."""
    for observe in _observers:
        observe(body)
    status = body["status"]
    generation = body["metadata"]["generation"]
    assert status["observedGeneration"] <= generation
    conditions = {item["type"]: item for item in status.get("conditions", ())}
    assert len(conditions) == len(status.get("conditions", ())), "a type appears twice"
    if status["observedGeneration"] == -1:
        assert not conditions
        return compute(body)
    three = [conditions[name] for name in ("Ready", "Reconciling", "Stalled")]
    assert [item["status"] for item in three].count("True") == 1, three
    assert {item["status"] for item in three} <= {"True", "False"}
    assert len({(item["reason"], item["message"]) for item in three}) == 1, "the three have one cause"
    for item in conditions.values():
        assert item["observedGeneration"] == status["observedGeneration"], item
        assert item["reason"]
    result = compute(body)
    if result != "Terminating" and status["observedGeneration"] == generation:
        wanted = {"Ready": "Current", "Reconciling": "InProgress", "Stalled": "Failed"}
        assert result == wanted[next(item["type"] for item in three if item["status"] == "True")]
    return result
