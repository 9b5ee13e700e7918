import pytest

from kigi.cli.demo.estimate import Estimate, Phase, duration

PHASES = (Phase("send", "bytes", 100, 10.0), Phase("one", "start", 20, 60.0), Phase("two", "start", 10, 30.0))


def test_the_guesses_are_the_first_estimate():
    assert Estimate(PHASES, 5.0).remaining_s(5.0) == 100.0


def test_later_phases_of_a_kind_take_as_long_per_unit_as_finished_ones():
    estimate = Estimate(PHASES, 0.0)
    estimate.finish(4.0)
    assert estimate.finish(124.0) == 120.0
    assert estimate.remaining_s(124.0) == 60.0  # half of the units of 120 s
    estimate.finish(150.0)
    assert estimate.remaining_s(150.0) == 0.0
    assert estimate.number == 3


def test_the_current_phase_is_estimated_by_its_finished_units():
    estimate = Estimate(PHASES[:1], 0.0)
    estimate.advance(50)
    assert estimate.remaining_s(30.0) == 30.0
    estimate.advance(100)
    assert estimate.remaining_s(31.0) == 0.0


def test_a_phase_without_a_finished_unit_never_ends_soon_when_it_is_late():
    estimate = Estimate(PHASES[:1], 0.0)
    assert estimate.remaining_s(4.0) == 6.0
    assert estimate.remaining_s(40.0) == 40.0


def test_first_units_do_not_replace_the_guess_immediately():
    estimate = Estimate(PHASES[:1], 0.0)
    estimate.advance(1)
    assert estimate.remaining_s(2.0) == 8.0


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (-1, "0:00")])
def test_duration(seconds: float, text: str):
    assert duration(seconds) == text
