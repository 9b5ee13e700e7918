"""The chain of a disk as an attribute of its volume: the format that operator and daemon share."""

from __future__ import annotations

import functools
import json

from kigi.domain.layers import Chain, Digest, Layer


@functools.lru_cache(maxsize=65536)
def chain_from_text(text: str) -> Chain:
    """Chain of a volume's attributes, root first; volumes of the same image share one. Empty if it is damaged."""
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
    """The chain as the daemon reads it from the volume's attributes: JSON, root first; instances share theirs."""
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
