"""Limits of a capture in time and number: pauses, attempts, the deadline, and the life of a finished capture; pure."""

from __future__ import annotations

from datetime import timedelta

from kigi.planning.capture_view import CLOCK_SKEW, CaptureView, lasts

BACKOFF_LIMIT = 3
"""``spec.backoffLimit`` where it is omitted."""
RETRY_S = 10.0
"""Pause before the second attempt, which doubles with each further one; and interval of checks before an attempt."""
RETRY_LONGEST_S = 360.0
FINISHED_RECHECK_S = 3600.0
"""Longest delay until the age of a finished capture is looked at again."""


def is_exhausted(view: CaptureView) -> bool:
    """Whether the last attempt failed and none follows."""
    limit = view.spec.backoff_limit
    return view.progress.failed_attempts > (BACKOFF_LIMIT if limit is None else limit)


def retry_delay_s(failed_attempts: int) -> float:
    """Seconds between the start of a failed attempt and that of the next: 10, 20, 40, ... 360."""
    return min(RETRY_LONGEST_S, RETRY_S * 2.0 ** min(failed_attempts - 1, 10))


def attempt_delay_s(view: CaptureView) -> float:
    """Seconds until the next attempt may start; 0 if the clock was set since the last one."""
    progress = view.progress
    if progress.failed_attempts == 0 or progress.attempt_start_time is None:
        return 0.0
    delay_s = retry_delay_s(progress.failed_attempts)
    left_s = delay_s - (view.now - progress.attempt_start_time).total_seconds()
    return left_s if 0 < left_s <= delay_s + CLOCK_SKEW.total_seconds() else 0.0


def is_paused_too_long(view: CaptureView) -> bool:
    """Whether the attempt has paused VMs for longer than it may."""
    started = view.progress.attempt_start_time
    return started is not None and not lasts(started, view.now, view.max_pause)


def seconds_to_deadline(view: CaptureView) -> float | None:
    """Seconds until ``spec.activeDeadlineSeconds`` has passed since the object was created; None: no deadline."""
    if view.spec.active_deadline_seconds is None or view.created is None:
        return None
    deadline = view.created + timedelta(seconds=view.spec.active_deadline_seconds)
    return (deadline - view.now).total_seconds()


def seconds_to_deletion(view: CaptureView) -> float | None:
    """Seconds until a finished capture is deleted; None: it stays.

    A completion in the future was written by a clock that was wrong, and counts as past.
    """
    ttl_s, completed = view.spec.ttl_seconds_after_finished, view.progress.completion_time
    if ttl_s is None or completed is None:
        return None
    left_s = ttl_s - (view.now - completed).total_seconds()
    return left_s if left_s <= ttl_s + CLOCK_SKEW.total_seconds() else 0.0
