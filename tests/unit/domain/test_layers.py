"""Digests, and the arithmetic of bytes over sets of layers."""

from __future__ import annotations

import pytest

from kigi.domain.layers import (
    Digest,
    Layer,
    digest_hex,
    digest_of_file_name,
    digest_of_hex,
    hide_digests,
    layer_file_name,
    missing_layers,
    object_key,
    parse_digest,
    total_bytes,
    unique_layers,
)

HEX = "0123456789abcdef" * 4


def layer(letter: str, size: int = 1, parent: str | None = None) -> Layer:
    return Layer(digest(letter), size, 512, digest(parent) if parent else None)


def digest(letter: str) -> Digest:
    return Digest("sha256:" + letter * 64)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(HEX, id="no-algorithm"),
        pytest.param("sha512:" + HEX, id="other-algorithm"),
        pytest.param("SHA256:" + HEX, id="upper-case-algorithm"),
        pytest.param("sha256:" + HEX.upper(), id="upper-case-hex"),
        pytest.param("sha256:" + HEX[:-1], id="one-digit-short"),
        pytest.param("sha256:" + HEX + "0", id="one-digit-long"),
        pytest.param("sha256:" + HEX[:-1] + "g", id="not-hex"),
        pytest.param("sha256:" + HEX + "\n", id="newline-behind"),
        pytest.param(" sha256:" + HEX, id="space-before"),
        pytest.param("sha256:" + "/" * 64, id="slashes"),
        pytest.param("sha256:" + "../" * 21 + "a", id="path-upwards"),
        pytest.param("sha256:" + "\u0660" * 64, id="digits-of-another-script"),
        pytest.param("sha256:" + HEX[:-1] + "\0", id="nul"),
    ],
)
def test_a_text_that_is_no_digest_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        parse_digest(text)


def test_the_refusal_of_a_long_text_stays_short() -> None:
    with pytest.raises(ValueError, match="not a layer digest") as refusal:
        parse_digest("x" * 10_000)
    assert len(str(refusal.value)) < 200


def test_hex_and_digest_convert_into_each_other() -> None:
    assert digest_hex(parse_digest("sha256:" + HEX)) == HEX
    assert digest_of_hex(HEX) == "sha256:" + HEX


@pytest.mark.parametrize("text", ["sha256:" + HEX, HEX[:-1], "../" + HEX[3:]])
def test_only_64_hex_digits_become_a_digest(text: str) -> None:
    with pytest.raises(ValueError, match="not a layer digest"):
        digest_of_hex(text)


def test_an_object_key_holds_only_the_hex_digits() -> None:
    assert object_key(parse_digest("sha256:" + HEX)) == "layers/sha256/" + HEX


def test_a_shared_layer_counts_once_and_keeps_its_first_place() -> None:
    base, left, right = layer("a", 100), layer("b", 10, "a"), layer("c", 1, "a")
    unique = unique_layers([(base, left), (base, right), (base, left)])
    assert list(unique.values()) == [base, left, right]
    assert total_bytes(unique.values()) == 111


def test_bytes_of_whole_chains_count_a_shared_layer_each_time() -> None:
    base, left, right = layer("a", 100), layer("b", 10, "a"), layer("c", 1, "a")
    assert total_bytes((base, left, base, right)) == 211


@pytest.mark.parametrize(
    ("held", "moved"),
    [
        pytest.param("", "abc", id="empty-node"),
        pytest.param("a", "bc", id="base-is-there"),
        pytest.param("b", "ac", id="middle-is-there-without-its-parent"),
        pytest.param("abc", "", id="all-is-there"),
        pytest.param("xyz", "abc", id="only-strangers"),
        pytest.param("cx", "ab", id="top-and-a-stranger"),
    ],
)
def test_what_moves_is_what_is_wanted_less_what_is_held(held: str, moved: str) -> None:
    wanted = unique_layers([(layer("a"), layer("b", parent="a"), layer("c", parent="b"))])
    missing = missing_layers(wanted, {digest(letter) for letter in held})
    assert list(missing) == [digest(letter) for letter in moved]


def test_nothing_wanted_moves_nothing() -> None:
    assert missing_layers({}, {digest("a")}) == {}
    assert unique_layers([]) == {}
    assert total_bytes([]) == 0


def test_a_layers_file_is_named_by_its_digest() -> None:
    name = layer_file_name(parse_digest("sha256:" + HEX))
    assert name == HEX + ".qcow2"
    assert digest_of_file_name(name) == "sha256:" + HEX


@pytest.mark.parametrize(
    "name",
    [HEX, HEX + ".raw", HEX + ".qcow2.qcow2", HEX[1:] + ".qcow2", "../" + HEX + ".qcow2", HEX.upper() + ".qcow2", ""],
)
def test_other_file_names_are_no_layers(name: str) -> None:
    with pytest.raises(ValueError, match="not "):
        digest_of_file_name(name)


def test_digests_of_others_are_hidden_in_any_form() -> None:
    own, other = digest_of_hex("1" * 64), digest_of_hex("2" * 64)
    files = f"{object_key(own)}, {layer_file_name(other)}"
    text = f"node-a: layer {other}: {object_key(other)} is not stored; {own}, {files}"
    hidden = hide_digests(text, {own})
    assert "2" * 20 not in hidden
    assert hidden == (f"node-a: layer sha256:…: layers/sha256/… is not stored; {own}, {object_key(own)}, ….qcow2")
    assert hide_digests("no digest: " + "1" * 63, ()) == "no digest: " + "1" * 63
