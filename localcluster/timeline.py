"""Times of the phases of a long job: printed while it runs, and as a table at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A finished phase: seconds from the start of the job to its begin, and its duration."""

    name: str
    began_s: float
    took_s: float


class Timeline:
    """Records phases, also of several threads at the same time. Calling it prints a line after the elapsed seconds."""

    def __init__(
        self,
        say: Callable[[str], None] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._clock = say, clock
        self._started_s = clock()
        self._lock = threading.Lock()
        self.spans: list[Span] = []
        """Finished phases, in the order of their ends."""

    def __call__(self, text: str) -> None:
        """Print ``text`` after the elapsed seconds."""
        self._say(f"[{self.elapsed_s():6.1f} s] {text}")

    def elapsed_s(self) -> float:
        """Seconds since the start of the job."""
        return self._clock() - self._started_s

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Records a phase that ends with the context, also by an error."""
        began_s = self.elapsed_s()
        try:
            yield
        finally:
            with self._lock:
                self.spans.append(Span(name, began_s, self.elapsed_s() - began_s))

    def add(self, seconds: Mapping[str, float], began_s: float) -> None:
        """Adds phases that ran one after another, the first of them from ``began_s`` on; name -> duration."""
        for name, took_s in seconds.items():
            self.spans.append(Span(name, began_s, took_s))
            began_s += took_s

    def table(self) -> str:
        """The phases of a second and more, in the order of their begins; phases that overlap ran at the same time.

        >>> print(Timeline(clock=lambda: 0.0).table().splitlines()[0])
        phase                                      began s    took s
        """
        rows = sorted((span for span in self.spans if span.took_s >= 1), key=lambda span: (span.began_s, -span.took_s))
        lines = [f"{span.name:<40} {span.began_s:9.0f} {span.took_s:9.0f}" for span in rows]
        total = f"{'total':<40} {'':9} {self.elapsed_s():9.0f}"
        return "\n".join([f"{'phase':<40} {'began s':>9} {'took s':>9}", *lines, total])
