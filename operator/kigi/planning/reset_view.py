"""What the report on one SystemReset reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kigi.api.reset import SystemResetStatus
from kigi.domain.resets import SETTLE, ResetRequest
from kigi.errors import KigiError


@dataclass(frozen=True, slots=True)
class MachineProgress:
    """One machine that a request concerns."""

    instance: str
    machine: str
    is_fresh: bool
    """Its present disk was made for the request, or later."""
    state: str = ""
    """Reported state of the machine on that disk; empty: there is no report on it yet."""
    message: str | None = None


@dataclass(frozen=True, slots=True)
class ResetView:
    """Input of the status of one SystemReset that has not ended."""

    generation: int
    request: ResetRequest
    refusal: KigiError | None
    """Why it resets nothing; None: it is accepted."""
    unresolved: int
    """Instances whose state cannot be resolved."""
    machines: tuple[MachineProgress, ...]
    missing_bytes: int
    """Bytes of layers of the fresh disks that the nodes lack now."""
    now: datetime
    old_status: SystemResetStatus | None = None

    @property
    def is_final(self) -> bool:
        """No object that appears now is meant by the request."""
        return self.now - self.request.created > SETTLE


def seconds_until_deletion(completed: datetime, ttl_s: int, now: datetime) -> float:
    """Seconds until a finished request is deleted; a completion in the future, of a wrong clock, counts as now."""
    age = max(now - completed, timedelta())
    return max(ttl_s - age.total_seconds(), 0.0)
