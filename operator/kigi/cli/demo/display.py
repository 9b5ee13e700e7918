"""Shows the progress of a run on stderr: one line that changes on a terminal, and a line now and then in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kigi.cli.demo.estimate import Estimate, Phase, duration
from kigi.cli.output import print_message, spinner

QUIET_S = 15.0
"""A pipe gets a line if there was none for this time."""


class Display:
    """The phases of a run, the current one's progress, and the remaining time."""

    def __init__(
        self,
        phases: Sequence[Phase],
        update: Callable[[str], None],
        *,
        say: Callable[[str], None] = print_message,
        is_terminal: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``update`` replaces the changing line of a terminal; ``say`` prints a line that stays."""
        self._update, self._say, self._is_terminal, self._clock = update, say, is_terminal, clock
        self._estimate = Estimate(phases, clock())
        self._said_s = clock()
        self.seconds: dict[str, float] = {}
        """Name -> duration of each finished phase."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Runs one phase; the phases come in their order. Not finished if the context ends by an error."""
        current = self._estimate.phases[self._estimate.number - 1]
        if current.name != name:
            raise ValueError(f"phase {name} begins while it is the turn of {current.name}")
        self.show(0.0, "begins", at_once=True)
        yield
        took_s = self._estimate.finish(self._clock())
        self.seconds[name] = took_s

    def show(self, done: float, detail: str, *, at_once: bool = False) -> None:
        """``done`` units of the current phase are finished; ``detail`` describes them."""
        self._estimate.advance(done)
        now = self._clock()
        line = self.line(detail, now)
        self._update(line)
        if not self._is_terminal and (at_once or now - self._said_s >= QUIET_S):
            self._said_s = now
            self._say(line)

    def line(self, detail: str, now: float) -> str:
        """``[2/8] switch to cleaned: 4 of 10 VMs run; 1:05 elapsed, about 2:40 left``."""
        estimate = self._estimate
        where = f"[{estimate.number}/{len(estimate.phases)}] {estimate.phases[estimate.number - 1].name}"
        left = duration(estimate.remaining_s(now))
        return f"{where}: {detail}; {duration(estimate.elapsed_s(now))} elapsed, about {left} left"


@contextmanager
def shown(phases: Sequence[Phase]) -> Iterator[Display]:
    """A display on stderr while the context lasts."""
    import sys

    with spinner("the demo begins") as update:
        yield Display(phases, update, is_terminal=sys.stderr.isatty())
