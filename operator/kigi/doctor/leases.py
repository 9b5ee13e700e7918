"""Leases of operator and daemons: how old their last renewal is, and how the holder's clock differs.

``spec.renewTime`` is of the holder's clock, and ``managedFields`` has the API server's time for the same write.
So no age and no difference depends on the clock of whoever runs ``kigi doctor``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kigi.doctor.facts import Body, Facts


def server_now(facts: Facts) -> datetime:
    """The API server's time; the caller's if it is not known."""
    return facts.now + timedelta(seconds=facts.server_ahead_s or 0.0)


def stored_at(lease: Body) -> datetime | None:
    """When the API server stored the last renewal, to the second; None: not known."""
    times = [
        _time(entry.get("time"))
        for entry in lease["metadata"].get("managedFields") or ()
        if "f:renewTime" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    return max((time for time in times if time is not None), default=None)


def age_s(facts: Facts, lease: Body) -> float | None:
    """Seconds since the last renewal; None: not known."""
    stored = stored_at(lease)
    return None if stored is None else (server_now(facts) - stored).total_seconds()


def ahead_s(lease: Body) -> float | None:
    """Seconds that the holder's clock is ahead of the API server's, to the second; None: not known."""
    stored, renewed = stored_at(lease), _time((lease.get("spec") or {}).get("renewTime"))
    return None if stored is None or renewed is None else (renewed - stored).total_seconds()


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
