"""Which nodes a node asks for a layer, and in which order; pure.

For each layer, the nodes are ranked by a hash of layer and node (rendezvous hashing), in the same order on every node.
A node reads from nodes before it in the ranking, even while those are still fetching; a cycle of nodes that wait for
each other is therefore impossible. Nodes behind it are asked only for layers that they hold. So only the first node of
the ranking reads from the repository.
Source: Thaler and Ravishankar, Using Name-Based Mappings to Increase Hit Rates, 1998.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from kigi.domain.layers import Digest

MAX_ASKED = 6
"""Nodes that are asked for a layer before the repository is."""


def ranked(digest: Digest, members: Collection[str]) -> list[str]:
    """The members in the ranking of this layer. O(n log n)."""
    return sorted(members, key=lambda member: hashlib.sha256(f"{digest} {member}".encode()).digest())


def sources(digest: Digest, members: Collection[str], me: str) -> list[tuple[str, bool]]:
    """(member, whether it may still be fetching) in the order in which ``me`` asks; after them it asks the repository.

    Members close before ``me`` in the ranking come first, so that many nodes do not all ask the same one. The first of
    the ranking has no other node before it; with members a, b, c ranked in that order:

        sources(d, {a, b, c}, a) == [(b, False), (c, False)]
        sources(d, {a, b, c}, b) == [(a, True), (c, False)]
    """
    order = ranked(digest, {*members, me})
    place = order.index(me)
    before = _spread(order[:place]) if place else []
    after = order[place + 1 :]
    asked = [(member, True) for member in before[: MAX_ASKED - 1]]
    return [*asked, *((member, False) for member in after[: MAX_ASKED - len(asked)])]


def _spread(before: Sequence[str]) -> list[str]:
    """First the member halfway, then the first of the ranking, then the others from the nearest on.

    So the nodes form a binary heap: node n of the ranking asks node (n - 1) / 2 first, and each serves about two.
    """
    parent = (len(before) - 1) // 2
    first = list(dict.fromkeys([before[parent], before[0]]))
    return [*first, *(member for member in reversed(before) if member not in first)]
