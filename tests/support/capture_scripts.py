"""Histories of a capture for hypothesis: what the operator, users and nodes do, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.support.capture_worlds import CaptureWorld

Script = list[tuple[str, Any]]
"""Pairs of an action and its argument, for ``run``."""
MOVES = st.integers(0, 7 * 14 - 1)
"""Moves of any ``CaptureWorld``."""
_FAULTS = st.lists(st.sampled_from(["", "", "", "refused", "lost"]), max_size=6)


def scripts(moves: st.SearchStrategy[int] = MOVES) -> st.SearchStrategy[Script]:
    """Any history; ``moves``: those of users and nodes between reconciles."""
    return st.lists(
        st.one_of(
            st.tuples(st.just("cooperate"), st.tuples(st.integers(1, 40), st.integers(0, 60))),
            st.tuples(st.just("reconcile"), st.tuples(st.integers(0, 6), _FAULTS, st.lists(MOVES, max_size=4))),
            st.tuples(st.just("move"), moves),
        ),
        max_size=30,
    )


def run(world: CaptureWorld, script: Script) -> None:
    """Carries the script out, and checks the world after each action."""
    place = 0
    for kind, argument in script:
        if kind == "cooperate":
            count, stop_after = argument
            world.stop_at = world.requests + stop_after
            for _ in range(count):
                world.cooperate(place)
                place += 1
            world.stop_at = None
        elif kind == "reconcile":
            world.reconcile(*argument)
        else:
            world.move(argument)
        world.check()
