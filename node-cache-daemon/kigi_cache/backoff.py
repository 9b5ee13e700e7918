"""Growing waits between retries."""

from __future__ import annotations

import random
from typing import ClassVar


class Backoff:
    """Waits that double from FIRST_S to LONGEST_S, each varied by a fifth, so that nodes do not retry in step."""

    FIRST_S: ClassVar[float] = 0.5
    LONGEST_S: ClassVar[float] = 30.0
    VARIATION: ClassVar[float] = 0.2

    def __init__(self) -> None:
        self._delay_s = self.FIRST_S

    def next_s(self) -> float:
        """The next wait, in seconds."""
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, self.LONGEST_S)
        return delay_s * random.uniform(1 - self.VARIATION, 1 + self.VARIATION)

    def reset(self) -> None:
        """Start again from FIRST_S, after a success."""
        self._delay_s = self.FIRST_S
