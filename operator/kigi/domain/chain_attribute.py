"""The chain of a disk as a volume attribute: the format that operator and daemon share."""

from __future__ import annotations

import functools
import json

from kigi.domain.layers import Chain, Digest, Layer


@functools.lru_cache(maxsize=65536)
def chain_from_text(text: str) -> Chain:
    """The chain in a volume's attribute, root first; empty if it is damaged. Cached: volumes of an image share it."""
    layers: list[Layer] = []
    parent: Digest | None = None
    try:
        for item in json.loads(text):
            layer = Layer(
                Digest(item["digest"]), item["sizeBytes"], item["virtualSizeBytes"], parent, item["repository"]
            )
            layers.append(layer)
            parent = layer.digest
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(layers)


@functools.lru_cache(maxsize=4096)
def chain_text(chain: Chain) -> str:
    """The volume attribute of a chain: JSON, root first. Cached: volumes of an image share it."""
    return json.dumps(
        [
            {
                "digest": layer.digest,
                "sizeBytes": layer.size_bytes,
                "virtualSizeBytes": layer.virtual_size_bytes,
                "repository": layer.repository,
            }
            for layer in chain
        ],
        separators=(",", ":"),
    )
