"""When a refused layer is fetched again; pure."""

from __future__ import annotations

from dataclasses import dataclass

from kigi.errors import KigiError, LayerCorrupt, LayerRefused, NeedsAction


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff per layer: ``first_s`` after the first failure, doubled with each further one."""

    first_s: float = 1.0
    max_s: float = 60.0
    max_damaged_s: float = 1800.0
    """In place of ``max_s`` while the repository's object is wrong: each attempt transfers the layer for nothing."""
    min_action_s: float = 10.0
    """Shortest delay after an error that a person must correct."""
    jitter: float = 0.2
    """Delays differ by up to this share, so that nodes do not retry in step."""

    def delay_s(self, error: KigiError, failures: int, spread: float = 0.0) -> float:
        """Seconds to the next attempt after ``failures`` in a row, at least 1; ``spread``, -1 to 1, sets the jitter."""
        longest_s = self.max_damaged_s if isinstance(error, LayerCorrupt | LayerRefused) else self.max_s
        delay_s = min(longest_s, self.first_s * 2.0 ** min(failures - 1, 32))
        if isinstance(error, NeedsAction):
            delay_s = max(delay_s, self.min_action_s)
        return delay_s * (1.0 + self.jitter * spread)


DEFAULT_RETRY = RetryPolicy()
