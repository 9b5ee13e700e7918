from __future__ import annotations

import pytest

from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.errors import SpecInvalid
from kigi.publishing.flatten import layers_above


def path(*names: str) -> list[Image]:
    below: list[str | None] = [None, *names]
    return [Image(name, Digest(f"sha256:{name * 64}"), 1, 512, below[n]) for n, name in enumerate(names)]


@pytest.mark.parametrize(("ancestor", "below"), [(None, None), ("a", "a"), ("b", "b")])
def test_the_new_layer_is_based_on_the_named_ancestor_or_is_a_root(ancestor: str | None, below: str | None) -> None:
    assert layers_above(path("a", "b", "c", "d"), ancestor) == (f"sha256:{below * 64}" if below else None)


@pytest.mark.parametrize(
    ("names", "ancestor", "message"),
    [
        (("a", "b"), "b", "no ancestor of VMImageNode b; its ancestors are a"),
        (("a", "b"), "z", "z is no ancestor"),
        (("a", "b"), "a", "one layer on a already"),
        (("a",), None, "one layer a root already"),
        (("a",), "z", "none: it is a root"),
    ],
)
def test_an_impossible_flattening_raises_with_the_reason(names: tuple[str, ...], ancestor: str, message: str) -> None:
    with pytest.raises(SpecInvalid, match=message):
        layers_above(path(*names), ancestor)
