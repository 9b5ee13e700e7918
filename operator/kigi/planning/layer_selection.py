"""Which layers a NodeCache lists: those of every chain once, as many as one object can hold.

What one namespace asks for takes no place from another one, and what it declares of a layer is not believed: if two
declare one digest differently, the node tries one after the other, and the file's header decides.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from kigi.api.node_cache import MAX_LAYERS, MAX_SPEC_BYTES, PURPOSES, NodeCacheSpec, Purpose, WantedLayer
from kigi.domain.layers import Digest, Layer
from kigi.domain.node_protocol import NodeCacheFull
from kigi.planning.view import DesiredChain

LONGEST_LAYER_BYTES = 370
"""Of a layer with the longest numbers and names, with its comma."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Layers to list, by digest, and the number of those that do not fit, by purpose."""

    layers: list[WantedLayer]
    omitted: Mapping[Purpose, int]


def select_layers(
    desired: Iterable[DesiredChain],
    kept: Iterable[WantedLayer] = (),
    *,
    listed: Mapping[str, WantedLayer] = MappingProxyType({}),
    refused: Set[str] = frozenset(),
    free_bytes: int = MAX_SPEC_BYTES,
) -> Selection:
    """Every layer of the chains and of ``kept`` once, with its foremost purpose; at most MAX_LAYERS.

    Prefetches give way to disks, the pinned ones last. Of those of one purpose, each namespace gets the same number of
    layers while others ask for more. A chain is listed whole or not at all, as a part is of no use. Of one namespace,
    chains that are ``listed`` already keep their place. ``refused``: listed layers that the node cannot get as they are
    listed. ``free_bytes``: for the list as JSON.
    """
    chains, kept = list(desired), list(kept)
    wanted = _merge(chains, kept, listed, refused)
    if len(wanted) <= MAX_LAYERS and len(wanted) * LONGEST_LAYER_BYTES <= free_bytes:
        return Selection(sorted(wanted.values(), key=lambda layer: layer.digest), {})
    sizes = {digest: size_bytes(layer.to_api()) + 1 for digest, layer in wanted.items()}
    groups = [
        _Group([layer.digest for layer in each.chain], each.purpose, each.pinned, each.namespace) for each in chains
    ]
    groups += [_Group([Digest(layer.digest)], layer.purpose, layer.retention is not None, "") for layer in kept]
    chosen: set[Digest] = set()
    for group in _in_turn(groups, listed.keys(), chosen):
        added = set(group.digests) - chosen
        needed = sum(sizes[digest] for digest in added)
        if len(chosen) + len(added) <= MAX_LAYERS and needed <= free_bytes:
            chosen |= added
            free_bytes -= needed
    omitted = Counter(layer.purpose for digest, layer in wanted.items() if digest not in chosen)
    return Selection([wanted[digest] for digest in sorted(chosen)], omitted)


class _Group(NamedTuple):
    digests: Sequence[Digest]
    purpose: Purpose
    pinned: bool
    namespace: str


def _in_turn(groups: Iterable[_Group], listed: Set[str], chosen: Set[Digest]) -> Iterator[_Group]:
    """The groups by purpose; of one purpose, next is the namespace with the fewest layers among the ``chosen`` ones.

    The caller adds to ``chosen`` between two groups. A layer that several namespaces ask for counts for the first.
    """
    ranks: dict[tuple[int, bool], dict[str, list[_Group]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        ranks[-PURPOSES.index(group.purpose), not group.pinned][group.namespace].append(group)
    taken: Counter[str] = Counter()
    for _, by_namespace in sorted(ranks.items(), key=lambda rank: rank[0]):
        for waiting in by_namespace.values():
            waiting.sort(key=lambda group: (not set(group.digests) <= listed, group.digests[-1]), reverse=True)
        turns = [(taken[namespace], namespace) for namespace in by_namespace]
        heapq.heapify(turns)
        while turns:
            _, namespace = heapq.heappop(turns)
            before = len(chosen)
            yield by_namespace[namespace].pop()
            taken[namespace] += len(chosen) - before
            if by_namespace[namespace]:
                heapq.heappush(turns, (taken[namespace], namespace))


def size_bytes(value: object) -> int:
    """Bytes of a value as JSON without spaces."""
    return len(json.dumps(value, separators=(",", ":")))


def _merge(
    desired: Iterable[DesiredChain],
    kept: Iterable[WantedLayer],
    listed: Mapping[str, WantedLayer],
    refused: Set[str],
) -> dict[Digest, WantedLayer]:
    wanted: dict[Digest, WantedLayer] = {Digest(layer.digest): layer for layer in kept}
    disputed: dict[Digest, set[Layer]] = {}
    for each in desired:
        for layer in each.chain:
            other = wanted.get(layer.digest)
            purposes = (each.purpose, *((other.purpose,) if other is not None else ()))
            purpose = max(purposes, key=PURPOSES.index)
            retention = "Pinned" if each.pinned or (other is not None and other.retention) else None
            if other is not None and not _is_declared(other, layer):
                disputed.setdefault(layer.digest, {_layer_of(other)}).add(layer)
            if other is not None and (other.purpose, other.retention) == (purpose, retention):
                continue
            wanted[layer.digest] = WantedLayer(
                digest=layer.digest,
                size_bytes=layer.size_bytes,
                virtual_size_bytes=layer.virtual_size_bytes,
                parent_digest=layer.parent,
                repository_name=layer.repository,
                purpose=purpose,
                retention=retention,
            )
    for digest, layers in disputed.items():
        wanted[digest] = wanted[digest].model_copy(update=_declaration(layers, listed.get(digest), digest in refused))
    return wanted


def _declaration(layers: Set[Layer], listed: WantedLayer | None, refused: bool) -> dict[str, object]:
    """What to tell the node of a layer that is declared in several ways: the next one after one that it refused."""
    ways = sorted(
        layers, key=lambda layer: (layer.parent or "", layer.repository, layer.size_bytes, layer.virtual_size_bytes)
    )
    present = [number for number, way in enumerate(ways) if listed is not None and _is_declared(listed, way)]
    way = ways[(present[0] + refused) % len(ways)] if present else ways[-1]
    sizes = {"size_bytes": way.size_bytes, "virtual_size_bytes": way.virtual_size_bytes}
    return {**sizes, "parent_digest": way.parent, "repository_name": way.repository}


def _is_declared(wanted: WantedLayer, layer: Layer) -> bool:
    return (
        wanted.size_bytes == layer.size_bytes
        and wanted.virtual_size_bytes == layer.virtual_size_bytes
        and wanted.parent_digest == layer.parent
        and wanted.repository_name == layer.repository
    )


def _layer_of(wanted: WantedLayer) -> Layer:
    parent = Digest(wanted.parent_digest) if wanted.parent_digest is not None else None
    sizes = (wanted.size_bytes, wanted.virtual_size_bytes)
    return Layer(Digest(wanted.digest), *sizes, parent, wanted.repository_name)


def prefetched_layers(spec: NodeCacheSpec | None) -> list[WantedLayer]:
    """Layers that the NodeCache lists for prefetches only, and the layers below them, which may serve a disk too."""
    listed = {layer.digest: layer for layer in spec.layers} if spec is not None else {}
    found: dict[str, WantedLayer] = {}
    for top in listed.values():
        digest: str | None = top.digest if top.purpose != "Disk" else None
        while digest is not None and digest in listed and digest not in found:
            layer = listed[digest]
            found[digest] = layer.model_copy(update={"purpose": "Prefetch"})
            digest = layer.parent_digest
    return list(found.values())


def layers_omitted(node: str, omitted: int, wanted: int) -> NodeCacheFull:
    """The error for an owner of layers, of whose ``wanted`` ones the node's NodeCache has no place for ``omitted``."""
    return NodeCacheFull(
        f"{omitted} of {wanted} layers do not fit into the NodeCache of node {node}, which lists {MAX_LAYERS}; delete "
        "prefetches or deployments there, flatten long chains (kigi flatten), or place machines on other nodes"
    )
