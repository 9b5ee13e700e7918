"""Delays of retries, in seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    LayerNotInRepository,
    LayerRefused,
    NoRoom,
    RepositoryUnreachable,
)
from kigi_cache.layers.retry import RetryPolicy

POLICY = RetryPolicy(first_s=1.0, max_s=60.0, max_damaged_s=1800.0, min_action_s=10.0, jitter=0.2)

TRANSIENT = [RepositoryUnreachable("silent"), LayerNotInRepository("missing"), NoRoom("full"), KigiError("a bug")]
DAMAGED = [LayerCorrupt("other bytes"), LayerRefused("magic", "another header")]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: error.reason)
def test_transient_errors_double_the_delay_up_to_a_minute(error: KigiError) -> None:
    assert [POLICY.delay_s(error, failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_object_with_wrong_bytes_is_fetched_ever_less_often_up_to_half_an_hour() -> None:
    delays = [POLICY.delay_s(LayerCorrupt("other bytes"), failures) for failures in range(1, 14)]
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1800, 1800]


def test_errors_that_a_person_must_correct_wait_longer_from_the_first() -> None:
    assert [POLICY.delay_s(AccessDenied("denied"), failures) for failures in (1, 4, 5, 9)] == [10, 10, 16, 60]
    assert POLICY.delay_s(LayerRefused("magic", "another header"), 1) == 10
    assert POLICY.delay_s(LayerRefused("magic", "another header"), 20) == 1800


@given(st.sampled_from([*TRANSIENT, *DAMAGED]), st.integers(1, 10**6), st.floats(-1, 1))
def test_a_delay_keeps_its_bounds_for_any_number_of_failures(error: KigiError, failures: int, spread: float) -> None:
    delay_s = POLICY.delay_s(error, failures, spread)
    assert 0.8 <= delay_s <= 1800 * 1.2
    assert POLICY.delay_s(error, failures + 1, spread) >= delay_s


def test_jitter_is_proportional_to_the_delay() -> None:
    assert POLICY.delay_s(NoRoom("full"), 3, -1.0) == pytest.approx(3.2)
    assert POLICY.delay_s(NoRoom("full"), 3, 1.0) == pytest.approx(4.8)
