"""Who fetches a layer from whom; pure.

For each layer the nodes are ranked by a hash of layer and node (rendezvous hashing), the same on every node. A node
reads from nodes before it in the rank, which may still be fetching themselves, so no circle of nodes can wait for each
other; nodes behind it are asked only for what they have whole. So it is the first that reads from the repository.
Source: Thaler and Ravishankar, Using Name-Based Mappings to Increase Hit Rates, 1998.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from kigi.domain.layers import Digest

ASKED_AT_MOST = 6
"""Nodes that are asked for a layer before the repository is."""


def ranked(digest: Digest, members: Collection[str]) -> list[str]:
    """The members in the order of this layer. O(n log n)."""
    return sorted(members, key=lambda member: hashlib.sha256(f"{digest} {member}".encode()).digest())


def sources(digest: Digest, members: Collection[str], me: str) -> list[tuple[str, bool]]:
    """(member, may still be fetching) in the order in which ``me`` asks them; then ``me`` asks the repository.

    The nearest before ``me`` in the rank come before the first of all, so that many nodes do not all ask that one.
    """
    order = ranked(digest, {*members, me})
    place = order.index(me)
    before = _spread(order[:place]) if place else []
    after = order[place + 1 :]
    asked = [(member, True) for member in before[: ASKED_AT_MOST - 1]]
    return [*asked, *((member, False) for member in after[: ASKED_AT_MOST - len(asked)])]


def _spread(before: Sequence[str]) -> list[str]:
    """Half the way down first: a tree of nodes in which each serves about two, then the first of all, then the others.

    Node n of the rank asks node (n - 1) / 2, as the parent in a binary heap.
    """
    parent = (len(before) - 1) // 2
    first = list(dict.fromkeys([before[parent], before[0]]))
    return [*first, *(member for member in reversed(before) if member not in first)]
