"""The rate limit, with times that the test chooses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi_cache.layers.token_bucket import TokenBucket


def test_a_rate_is_kept_on_average_and_bursts_are_short() -> None:
    bucket = TokenBucket(100.0)
    assert bucket.take(100, 0.0) == 0.0
    assert bucket.take(50, 0.0) == pytest.approx(0.5)
    assert bucket.take(0, 0.5) == 0.0
    assert bucket.take(100, 100.0) == 0.0, "a pause saves up no more than one second"
    assert bucket.take(100, 100.0) == pytest.approx(1.0)
    assert TokenBucket(0).take(10**12, 0.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 3)), max_size=30))
def test_no_period_gets_more_than_its_share(steps: list[tuple[int, float]]) -> None:
    bucket, now, taken = TokenBucket(100.0), 0.0, 0
    for count, extra in steps:
        taken += count
        now += bucket.take(count, now) + extra
    assert taken <= 100.0 * (now + 1.0) + 1e-6
