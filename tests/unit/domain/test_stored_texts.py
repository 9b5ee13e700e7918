"""Texts on PersistentVolumes: the fingerprint and the chain survive a round trip, and damaged ones are harmless."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.chain_attribute import chain_from_text, chain_text
from kigi.domain.fingerprint import MAX_SEEN, Fingerprint, remember, request_mark, token_mark
from kigi.domain.layers import Chain, Digest, Layer

DIGESTS = st.integers(0, 2**256 - 1).map(lambda number: Digest(f"sha256:{number:064x}"))
MARKS = st.builds(token_mark, st.text(max_size=20)) | st.builds(request_mark, st.uuids().map(str))
SEEN = st.lists(MARKS, max_size=MAX_SEEN, unique=True).map(tuple)
FINGERPRINTS = st.builds(
    Fingerprint,
    image=DIGESTS,
    system=st.text(max_size=20),
    seen=SEEN,
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
    '{"image": "a", "system": "b", "resets": ["x"]}',
    '{"image": "a", "system": "b", "seen": 1}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_fingerprint_asks_for_a_new_disk(text: str) -> None:
    assert Fingerprint.from_text(text) is None


@pytest.mark.parametrize("text", [*DAMAGED, json.dumps([{"digest": "sha256:1"}])])
def test_a_damaged_chain_is_empty(text: str) -> None:
    assert chain_from_text(text) == ()


@pytest.mark.parametrize(
    ("resets", "seen"),
    [
        ([None, None, None], ()),
        ([None, "again", None], ("token:again",)),
        (["all", "one", "all"], ("token:all", "token:one")),
    ],
)
def test_the_three_tokens_of_v1alpha1_are_seen(resets: list[str | None], seen: tuple[str, ...]) -> None:
    """An upgrade must not give every machine a new disk."""
    text = json.dumps({"image": "sha256:1", "resets": resets, "system": "office"})
    assert Fingerprint.from_text(text) == Fingerprint("sha256:1", "office", seen)


def test_a_token_is_never_taken_for_a_request() -> None:
    assert token_mark("request:7") != request_mark("7")
    assert Fingerprint("sha256:1", "office", (token_mark("request:7"), request_mark("7"))).tokens == ("request:7",)


@given(SEEN, st.lists(MARKS, max_size=3 * MAX_SEEN))
def test_a_disk_remembers_all_that_is_wanted_and_a_bounded_past(seen: tuple[str, ...], wanted: list[str]) -> None:
    found = remember(seen, wanted)
    assert set(wanted) <= set(found) <= {*seen, *wanted}
    assert len(found) == len(set(found)) <= MAX_SEEN + len(set(wanted))


def test_a_token_that_was_wanted_for_long_is_not_the_first_to_be_forgotten() -> None:
    seen: tuple[str, ...] = ()
    for number in range(2 * MAX_SEEN):
        seen = remember(seen, [token_mark("monday"), request_mark(str(number))])
    seen = remember(seen, [token_mark("tuesday")])
    assert token_mark("monday") in seen
    assert request_mark("0") not in seen


def test_a_disk_that_replaces_a_lost_one_has_the_same_marks() -> None:
    """Otherwise the history would show the replacement as a reset."""
    seen = (token_mark("a"), token_mark("b"))
    assert remember(seen, [token_mark("a")]) == seen
