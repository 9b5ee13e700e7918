"""LayerRepositories: as the operator reports them, and as their buckets answer the caller."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.adapters.kubernetes.resources import REPOSITORY
from kigi.doctor.facts import Body, Facts, RepositoryAnswer
from kigi.doctor.findings import Diagnosis

_REMEDIES = {
    "SecretMissing": "create the Secret with the keys accessKeyId and secretAccessKey, or name another one",
    "AccessDenied": "correct the Secret that the LayerRepository names, or the rights of its user in the bucket",
}
FINE = frozenset({"NoWriter"})
"""Reasons of a condition that is False and as it should be."""


def check_repositories(facts: Facts) -> Iterator[Diagnosis]:
    """Each repository; there must be one, and a default."""
    if not facts.is_installed:
        return
    listing = facts.of(REPOSITORY)
    if listing.unread:
        yield Diagnosis("repositories", "not checked", "LayerRepositories", listing.unread)
        return
    if not listing.items:
        text, remedy = "there is none: no layer can be fetched", "adapt and apply manifests/examples/repositories.yaml"
        yield Diagnosis("repositories", "error", "LayerRepositories", text, remedy)
        return
    for body in listing.items:
        yield from _check(facts, body)
    if not any((body["spec"].get("defaultFor") or "None") != "None" for body in listing.items):
        text = "none of them has spec.defaultFor: every image must name its repository"
        remedy = "set spec.defaultFor of one of them, such as AllNamespaces"
        yield Diagnosis("repositories", "warning", "LayerRepositories", text, remedy)


def _check(facts: Facts, body: Body) -> Iterator[Diagnosis]:
    name = body["metadata"]["name"]
    what, answer = f"LayerRepository/{name}", facts.repositories.get(name, RepositoryAnswer(unread="it was not asked"))
    conditions = {each["type"]: each for each in (body.get("status") or {}).get("conditions") or ()}
    found = [*_reported(facts, what, conditions), *_answered(facts, what, answer, conditions)]
    yield from found
    if all(finding.state in ("ok", "not checked") for finding in found):
        yield Diagnosis("repositories", "ok", what, f"the operator reads {body['spec']['s3']['bucket']}")


def _reported(facts: Facts, what: str, conditions: dict[str, Body]) -> Iterator[Diagnosis]:
    if "Ready" not in conditions:
        text = "the operator has not read it yet"
        yield Diagnosis("repositories", "warning", what, text, f"kubectl -n {facts.namespace} get pods")
    for kind in ("Ready", "Writable"):
        condition = conditions.get(kind, {})
        reason = str(condition.get("reason") or "")
        if condition.get("status") == "False" and reason not in FINE:
            message = str(condition.get("message") or reason)
            remedy = facts.remedies.get(reason) or f"kigi why LayerRepository/{what.partition('/')[2]}"
            yield Diagnosis("repositories", "error" if kind == "Ready" else "warning", what, message, remedy)


def _answered(facts: Facts, what: str, answer: RepositoryAnswer, conditions: dict[str, Body]) -> Iterator[Diagnosis]:
    if answer.unread:
        yield Diagnosis("buckets", "not checked", what, answer.unread)
    elif answer.reason:
        is_read = conditions.get("Ready", {}).get("status") == "True"
        if answer.reason == "RepositoryUnreachable" and is_read:
            text = f"this machine cannot reach it, and the operator does: {answer.message}"
            yield Diagnosis("buckets", "not checked", what, text)
            return
        remedy = _REMEDIES.get(answer.reason) or facts.remedies.get(answer.reason) or "correct the LayerRepository"
        yield Diagnosis("buckets", "error", what, answer.message, remedy)
    for point in answer.points:
        if point.verdict == "not ok":
            yield Diagnosis("buckets", "warning", what, f"{point.name}: {point.found}", point.remedy)
        elif point.verdict == "unknown":
            yield Diagnosis("buckets", "not checked", what, f"{point.name}: {point.found}", point.remedy)
