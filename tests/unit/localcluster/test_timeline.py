import pytest

from localcluster.timeline import Timeline
from tests.support.called_clock import CalledClock


def test_the_table_has_phases_in_the_order_of_their_begins():
    clock, said = CalledClock(100.0), list[str]()
    timeline = Timeline(said.append, clock)
    with timeline.phase("programs"):
        with timeline.phase("root file systems"):
            clock.now += 30
        clock.now += 10
    with timeline.phase("short"):
        clock.now += 0.5
    timeline.add({"kigi demo: publish": 2.0, "kigi demo: reset": 40.0}, timeline.elapsed_s())
    clock.now += 42
    timeline("done")
    assert said == ["[  82.5 s] done"]
    assert [line.split() for line in timeline.table().splitlines()[1:]] == [
        ["programs", "0", "40"],
        ["root", "file", "systems", "0", "30"],
        ["kigi", "demo:", "publish", "40", "2"],
        ["kigi", "demo:", "reset", "42", "40"],
        ["total", "82"],
    ]


def test_a_phase_that_fails_is_recorded():
    clock = CalledClock(100.0)
    timeline = Timeline(lambda line: None, clock)

    def fail() -> None:
        clock.now += 3
        raise RuntimeError

    with pytest.raises(RuntimeError), timeline.phase("programs"):
        fail()
    assert [span.name for span in timeline.spans] == ["programs"]
