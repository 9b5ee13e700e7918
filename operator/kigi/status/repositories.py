"""Status of a LayerRepository: Ready when the operator can read it with the credentials that the nodes get."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kigi.api.conditions import WRITABLE, Finding, problem_findings, summary, with_conditions
from kigi.api.layer_repository import LayerRepositorySpec, LayerRepositoryStatus
from kigi.errors import KigiError

UNKNOWN = "Unknown"
UNSUPPORTED, REFUSED = "Unsupported", "Refused"


@dataclass(frozen=True, slots=True)
class RepositoryView:
    """A repository, and what its last probes found."""

    spec: LayerRepositorySpec
    generation: int
    old_status: LayerRepositoryStatus
    now: datetime
    read_error: KigiError | None
    """None: reading works."""
    reachable: bool | None
    """Whether the server answered; None: it was not asked, because a Secret or ConfigMap is missing."""
    write_error: KigiError | None
    """None: writing works, or there is no writer."""
    conditional_writes: str
    """Supported, Unsupported, Refused or Unknown."""
    region: str | None = None
    """The bucket's region; None: it is not known."""


def repository_status(view: RepositoryView) -> LayerRepositoryStatus:
    """Conditions and fields of the last probes."""
    status = LayerRepositoryStatus(reachable=view.reachable, conditional_writes=view.conditional_writes)
    where = f"{view.spec.s3.endpoint}: bucket {view.spec.s3.bucket}"
    if view.read_error is not None:
        findings = problem_findings(view.read_error)
    else:
        text = f"{where} answers" + _other_region(view)
        findings = summary(ready=True, stalled=False, reason="Reachable", message=text)
    old = view.old_status.conditions
    return with_conditions(status, old, [*findings, _writable(view, where)], generation=view.generation, now=view.now)


def _other_region(view: RepositoryView) -> str:
    stated = view.spec.s3.region
    if view.region is None or stated is None or stated == view.region:
        return ""
    return f", in region {view.region}: correct spec.s3.region, which is {stated}"


def _writable(view: RepositoryView, where: str) -> Finding:
    references = view.spec.credentials
    if references.writer_secret_ref is None and references.reader_secret_ref is not None:
        text = "spec.credentials.writerSecretRef is not set, so captures cannot be stored here"
        return Finding(WRITABLE, False, "NoWriter", text)
    if view.write_error is not None:
        return Finding(WRITABLE, False, view.write_error.reason, str(view.write_error))
    if view.conditional_writes == UNSUPPORTED:
        text = f"{where} takes layers, but ignores If-None-Match: a damaged publisher could replace a stored layer"
        return Finding(WRITABLE, True, "ConditionalWritesUnsupported", text)
    if view.conditional_writes == REFUSED:
        text = (
            f"{where} takes layers, but answers 501 to If-None-Match, so that requests do without it: a damaged "
            "publisher could store a layer again"
        )
        return Finding(WRITABLE, True, "ConditionalWritesUnsupported", text)
    return Finding(WRITABLE, True, "Writable", f"{where} takes layers and never overwrites one")
