"""Progress and remaining time of a run with several phases; pure, the caller passes the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_S = 3.0
"""A phase that runs for less than this is still estimated by its guess: its first units say little."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run. Phases of one ``kind`` take similar times per unit; ``guess_s``: seconds, before any is known.

    ``units``: amount of work, such as bytes or machines.
    """

    name: str
    kind: str
    units: float
    guess_s: float


class Estimate:
    """Remaining time from the guesses, replaced by what the finished units of the same kind have taken."""

    def __init__(self, phases: Sequence[Phase], now_s: float) -> None:
        self.phases = tuple(phases)
        self._index = 0
        self._done = 0.0
        self._began_s = self._start_s = now_s
        self._spent: dict[str, tuple[float, float]] = {}
        """Kind -> units and seconds of its finished phases."""

    @property
    def number(self) -> int:
        """Number of the current phase, from 1."""
        return min(self._index + 1, len(self.phases))

    def advance(self, done: float) -> None:
        """``done`` units of the current phase are finished, all in all."""
        self._done = done

    def finish(self, now_s: float) -> float:
        """Ends the current phase and begins the next one; the seconds that it took."""
        phase, took_s = self.phases[self._index], now_s - self._began_s
        units, seconds = self._spent.get(phase.kind, (0.0, 0.0))
        self._spent[phase.kind] = (units + phase.units, seconds + took_s)
        self._index, self._done, self._began_s = self._index + 1, 0.0, now_s
        return took_s

    def elapsed_s(self, now_s: float) -> float:
        """Seconds since the start of the run."""
        return now_s - self._start_s

    def remaining_s(self, now_s: float) -> float:
        """Estimated seconds until the end of the last phase; 0 at the end."""
        if self._index >= len(self.phases):
            return 0.0
        later = sum(self._expected_s(phase) for phase in self.phases[self._index + 1 :])
        return later + self._rest_s(self.phases[self._index], now_s - self._began_s)

    def _rest_s(self, phase: Phase, spent_s: float) -> float:
        expected_s = self._expected_s(phase)
        if not self._done or spent_s < FIRST_S:
            # Slower than expected, and nothing has ended yet: assume that half of the work is still to be done.
            return max(expected_s - spent_s, spent_s if spent_s > expected_s else 0.0)
        by_units_s = spent_s * max(0.0, phase.units - self._done) / self._done
        share = min(1.0, self._done / phase.units)
        return share * by_units_s + (1 - share) * max(by_units_s, expected_s - spent_s)

    def _expected_s(self, phase: Phase) -> float:
        units, seconds = self._spent.get(phase.kind, (0.0, 0.0))
        return seconds * phase.units / units if units else phase.guess_s


def duration(seconds: float) -> str:
    """Minutes and seconds: ``2:05``."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
