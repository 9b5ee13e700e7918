from __future__ import annotations

import pytest

from kigi_cache.backoff import Backoff


def test_waits_double_up_to_the_longest_and_vary_by_a_fifth() -> None:
    backoff = Backoff()
    for expected in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        assert backoff.next_s() == pytest.approx(expected, rel=0.21)


def test_a_success_starts_again() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 0.6


def test_two_nodes_do_not_retry_in_step() -> None:
    assert Backoff().next_s() != Backoff().next_s()
