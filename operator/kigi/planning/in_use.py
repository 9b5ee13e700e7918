"""Keeping what is used: the finalizer on the nodes of both trees.

A node carries it while something uses it, and only then: a node that nothing uses is deleted at once, also when no
operator runs. Whoever deletes a used node sees it wait, with its users in the condition; it goes when the last one has
gone. Each decision is made anew from what is there, so that it does not matter when an operator dies.
"""

from __future__ import annotations

from collections.abc import Sequence

from kigi.domain.usage import User


def plan_in_use(*, users: Sequence[User], deleting: bool, has_finalizer: bool) -> bool | None:
    """Whether the finalizer shall be put on (True) or taken off (False); None: as it is.

    Kubernetes takes no new finalizer on an object that is being deleted.
    """
    if users:
        return None if has_finalizer or deleting else True
    return False if has_finalizer else None
