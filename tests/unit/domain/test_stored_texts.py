"""Texts on PersistentVolumes: the fingerprint and the chain survive a round trip, and damaged ones are harmless."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.chain_attribute import chain_from_text, chain_text
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.layers import Chain, Digest, Layer

DIGESTS = st.integers(0, 2**256 - 1).map(lambda number: Digest(f"sha256:{number:064x}"))
TOKENS = st.none() | st.text(max_size=20)
FINGERPRINTS = st.builds(
    Fingerprint,
    image=DIGESTS,
    system=st.text(max_size=20),
    resets=st.tuples(TOKENS, TOKENS, TOKENS),
    disks=st.dictionaries(st.text(max_size=8), DIGESTS, max_size=3).map(lambda disks: tuple(sorted(disks.items()))),
)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    layers: list[Layer] = []
    for digest in draw(st.lists(DIGESTS, min_size=1, max_size=8, unique=True)):
        size = draw(st.integers(1, 2**40))
        layers.append(Layer(digest, size, 2**40, layers[-1].digest if layers else None, draw(st.sampled_from("ab"))))
    return tuple(layers)


@given(FINGERPRINTS)
def test_a_fingerprint_is_the_same_after_a_round_trip(fingerprint: Fingerprint) -> None:
    assert Fingerprint.from_text(fingerprint.to_text()) == fingerprint


@given(FINGERPRINTS, FINGERPRINTS)
def test_texts_are_equal_exactly_for_equal_fingerprints(first: Fingerprint, second: Fingerprint) -> None:
    assert (first.to_text() == second.to_text()) == (first == second)


@given(chains())
def test_a_chain_is_the_same_after_a_round_trip(chain: Chain) -> None:
    assert chain_from_text(chain_text(chain)) == chain


DAMAGED = [
    "",
    "x",
    "null",
    "7",
    "[]",
    "{}",
    "[1]",
    '["a"]',
    '{"image": 1}',
    '{"image": "a", "system": "b", "resets": 1}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_fingerprint_asks_for_a_new_disk(text: str) -> None:
    assert Fingerprint.from_text(text) is None


@pytest.mark.parametrize("text", [*DAMAGED, json.dumps([{"digest": "sha256:1"}])])
def test_a_damaged_chain_is_empty(text: str) -> None:
    assert chain_from_text(text) == ()


def test_a_fingerprint_without_extra_disks_has_the_text_of_earlier_versions() -> None:
    """Another text would give every machine a new disk at an upgrade."""
    fingerprint = Fingerprint("sha256:1", "office", (None, "again", None))
    assert fingerprint.to_text() == '{"image": "sha256:1", "resets": [null, "again", null], "system": "office"}'
