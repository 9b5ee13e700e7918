"""The end of a deployment's use: its VMs are off from then on, and a condition announces it. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from kigi.api.conditions import EXPIRING, Finding
from kigi.api.deployment import SystemDeploymentSpec


def has_expired(spec: SystemDeploymentSpec, now: datetime) -> bool:
    """Whether the time of ``spec.expiration`` has come."""
    return spec.expiration is not None and now >= spec.expiration.time


def expiration_finding(spec: SystemDeploymentSpec, now: datetime) -> Finding | None:
    """The condition Expiring; None without an expiration. True from the notice on."""
    if spec.expiration is None:
        return None
    moment = f"{spec.expiration.time:%Y-%m-%dT%H:%M:%SZ}"
    if has_expired(spec, now):
        text = f"expired at {moment}: VMs are off, disks stay; delete spec.expiration, or set a later time"
        return Finding(EXPIRING, True, "Expired", text)
    if now >= _notice(spec):
        text = f"VMs are shut down at {moment}, disks stay; set a later spec.expiration.time to continue"
        return Finding(EXPIRING, True, "ExpiresSoon", text)
    return Finding(EXPIRING, False, "ExpirationAhead", f"VMs are shut down at {moment}")


def seconds_until_next(spec: SystemDeploymentSpec, now: datetime) -> float | None:
    """Seconds until the notice or the end, whichever comes next; None: nothing is ahead."""
    if spec.expiration is None:
        return None
    ahead = [moment for moment in (_notice(spec), spec.expiration.time) if moment > now]
    return (min(ahead) - now).total_seconds() if ahead else None


def _notice(spec: SystemDeploymentSpec) -> datetime:
    assert spec.expiration is not None
    return spec.expiration.time - timedelta(seconds=spec.expiration.notice_seconds or 0)
