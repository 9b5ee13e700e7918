import pytest

from kigi.cli.demo.display import QUIET_S, Display
from kigi.cli.demo.estimate import Phase
from tests.support.called_clock import CalledClock


def display(clock: CalledClock, said: list[str], drawn: list[str], *, is_terminal: bool = False) -> Display:
    phases = [Phase("publish", "publish", 100, 20.0), Phase("deploy", "start", 10, 40.0)]
    return Display(phases, drawn.append, say=said.append, is_terminal=is_terminal, clock=clock)


def test_a_line_has_phase_progress_and_times():
    clock, said, drawn = CalledClock(), [], []
    shown = display(clock, said, drawn)
    with shown.phase("publish"):
        clock.now = 10.0
        shown.show(50, "19.0 of 38.0 MB stored")
    assert drawn[-1] == "[1/2] publish: 19.0 of 38.0 MB stored; 0:10 elapsed, about 0:50 left"
    with shown.phase("deploy"):
        assert drawn[-1].startswith("[2/2] deploy: begins")
    assert shown.seconds == {"publish": 10.0, "deploy": 0.0}


def test_a_pipe_gets_a_line_at_each_begin_and_now_and_then():
    clock, said, drawn = CalledClock(), [], []
    shown = display(clock, said, drawn)
    with shown.phase("publish"):
        for second in range(40):
            clock.now = float(second)
            shown.show(second, f"{second}")
    assert len(said) == 1 + 39 // QUIET_S
    assert len(drawn) == 41


def test_a_terminal_gets_no_lines_that_stay():
    clock, said, drawn = CalledClock(), [], []
    shown = display(clock, said, drawn, is_terminal=True)
    with shown.phase("publish"):
        clock.now = 100.0
        shown.show(1, "x")
    assert said == []


def test_a_phase_that_fails_is_not_finished():
    clock, said, drawn = CalledClock(), [], []
    shown = display(clock, said, drawn)
    with pytest.raises(RuntimeError), shown.phase("publish"):
        raise RuntimeError
    assert shown.seconds == {}


def test_phases_come_in_their_order():
    shown = display(CalledClock(), [], [])
    with pytest.raises(ValueError, match="publish"), shown.phase("deploy"):
        pass
