"""Lists of names in messages, which have a limited length."""

from __future__ import annotations

from collections.abc import Sequence


def first_names(names: Sequence[str], shown: int) -> str:
    """The first names, and the number of the others.

    >>> first_names(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
