"""The in-use finalizer on VMImageNodes and SystemNodes.

A node carries it while another object uses it. An unused node is deleted immediately, even while no operator runs. A
used node that is deleted waits, and its condition lists the users; it goes when the last of them is gone. Each decision
depends only on the present objects, so an operator may end at any point.
"""

from __future__ import annotations

from collections.abc import Sequence

from kigi.domain.usage import User


def plan_in_use(*, users: Sequence[User], deleting: bool, has_finalizer: bool) -> bool | None:
    """Whether to add (True) or remove (False) the finalizer; None: no change.

    Kubernetes accepts no new finalizer on an object that is being deleted.
    """
    if users:
        return None if has_finalizer or deleting else True
    return False if has_finalizer else None
