"""Reports of frozen copies for the NodeCache's status. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from kigi.api.conditions import bounded
from kigi.api.node_cache import MAX_MONITOR_MESSAGE, MAX_REPORT_MESSAGE, CaptureOrder, CaptureReport
from kigi.errors import KigiError

STATES = frozenset({"Possible", "Copied", "Storing", "Stored", "Unchanged", "Refused", "Lost"})
"""States of a copy that this daemon and its publisher know."""
MAX_NUMBER = 2**63
"""The API server takes no larger one."""


@dataclass(frozen=True, slots=True)
class CopyFigures:
    """Cost of one copy."""

    size_bytes: int
    milliseconds: int


def checked(order: CaptureOrder, refusal: KigiError | None, monitor: Mapping[str, str] | None = None) -> CaptureReport:
    """Report of an order to check. ``monitor``: see ``monitor_fields``."""
    if refusal is None:
        return CaptureReport.model_validate({"id": order.id, "state": "Possible", **(monitor or {})})
    return _report({"state": "Refused", **error_fields(refusal)}, order.id, None)


def missing(order: CaptureOrder, error: KigiError | None, broken: str = "") -> CaptureReport:
    """Report of an order whose copy does not exist; ``error``: why it could not be made.

    An order to Keep is Lost: its VM runs again, so that a copy made now would not be the state that was captured.
    ``broken``: why the VMs could not be stopped together, if that is the cause.
    """
    if error is not None:
        monitor = monitor_fields("Broken", broken) if broken else {}
        return _report({"state": "Refused", **error_fields(error), **monitor}, order.id, None)
    return CaptureReport(
        id=order.id,
        state="Lost" if order.action == "Keep" else "Refused",
        reason="CaptureMissing",
        message=f"there is no copy {order.id} on this node",
    )


def copied(
    order: CaptureOrder,
    copy_uid: str | None,
    result: Mapping[str, Any],
    figures: CopyFigures | None,
    silence: KigiError | None,
    pause: Mapping[str, str] | None = None,
) -> CaptureReport:
    """Report of a copy that exists.

    ``result``: what the publisher wrote; an invalid one is ignored. ``silence``: an error if the publisher is dead.
    ``pause``: see ``pause_fields``.
    """
    nothing = dict.fromkeys(("stopTime", "continueTime", "monitor", "monitorMessage"))
    own = {**nothing, **(pause or {}), "copyUid": copy_uid}
    fields = {"state": "Copied", **result, **(error_fields(silence) if silence is not None else {}), **own}
    if isinstance(fields["state"], str) and fields["state"] in STATES:
        with contextlib.suppress(ValidationError):
            report = _report(fields, order.id, figures)
            numbers = (report.copied_bytes, report.copy_milliseconds, report.size_bytes or 0, report.uploaded_bytes)
            if all(0 <= number < MAX_NUMBER for number in numbers):
                return report
    return _report({"state": "Copied", **own}, order.id, figures)


def error_fields(error: KigiError) -> dict[str, str]:
    """Reason and message of a report."""
    return {"reason": error.reason, "message": bounded(str(error), MAX_REPORT_MESSAGE)}


def monitor_fields(monitor: str, message: str = "") -> dict[str, str]:
    """Whether VMs can be stopped through their monitors, and why not."""
    return {"monitor": monitor, **({"monitorMessage": bounded(message, MAX_MONITOR_MESSAGE)} if message else {})}


def pause_fields(stopped: datetime, continued: datetime) -> dict[str, str]:
    """Times of the pause in which a copy was made."""
    return {"stopTime": stopped.isoformat(), "continueTime": continued.isoformat()}


def _report(fields: Mapping[str, Any], id_: str, figures: CopyFigures | None) -> CaptureReport:
    cost = {"copiedBytes": figures.size_bytes, "copyMilliseconds": figures.milliseconds} if figures else {}
    return CaptureReport.model_validate({**fields, **cost, "id": id_})
