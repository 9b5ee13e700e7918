"""Bytes of an instance's layers: all of them, those that its nodes need, and those that are missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes
from kigi.planning.placed import PlacedTarget
from kigi.planning.view import NodeState


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Bytes of the placed disks over all nodes; each node counts a layer once."""

    whole: int
    """Sum of every machine's whole chains: the cost without trees and caches."""
    wanted: int
    missing: int
    missing_on: Mapping[str, Mapping[Digest, Layer]]
    wanted_on: Mapping[str, Mapping[Digest, Layer]]

    @classmethod
    def of(cls, nodes: Mapping[str, NodeState], placed: Sequence[PlacedTarget]) -> LayerBytes:
        """Bytes of these targets, by what the nodes hold. O(machines x chain length)."""
        wanted_on: dict[str, dict[Digest, Layer]] = defaultdict(dict)
        for one in placed:
            for chain in one.target.chains:
                wanted_on[one.node].update({layer.digest: layer for layer in chain})
        missing_on = {
            node: missing_layers(layers, nodes[node].held if node in nodes else frozenset())
            for node, layers in wanted_on.items()
        }
        return cls(
            whole=sum(total_bytes(chain) for one in placed for chain in one.target.chains),
            wanted=sum(total_bytes(layers.values()) for layers in wanted_on.values()),
            missing=sum(total_bytes(layers.values()) for layers in missing_on.values()),
            missing_on=missing_on,
            wanted_on=wanted_on,
        )
