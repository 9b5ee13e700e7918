"""The form of state.json, which later versions must read, and what is trusted of it."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.layers import Digest
from kigi_cache.layers.records import Fingerprint, Records, decode_records, encode_records


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


A, B = digest(1), digest(2)
SEEN = Fingerprint(size_bytes=10, inode=11, mtime_ns=12, ctime_ns=13)


def test_the_form_of_the_file() -> None:
    records = Records({A: SEEN, B: SEEN}, {B}, {A: 1.9, digest(3): 5.0}, {A: 2.46}, 77)
    assert json.loads(encode_records(records, "boot-1")) == {
        "boot": "boot-1",
        "fetchedBytesTotal": 77,
        "verified": {f"{1:064x}": [10, 11, 12, True], f"{2:064x}": [10, 11, 12, False]},
        "changedAt": {f"{1:064x}": 13, f"{2:064x}": 13},
        "readAt": {f"{1:064x}": 1},
        "neededAt": {f"{1:064x}": 2.5},
    }


def test_after_a_restart_of_the_daemon_all_verified_layers_are_trusted() -> None:
    saved = decode_records(encode_records(Records({A: SEEN, B: SEEN}, {B}, {A: 1.0}, {B: 2.0}, 77), "boot-1"), "boot-1")
    assert saved == Records({A: SEEN, B: SEEN}, {B}, {A: 1.0}, {B: 2.0}, 77)


def test_after_a_restart_of_the_machine_only_persisted_layers_are_trusted() -> None:
    saved = decode_records(encode_records(Records({A: SEEN, B: SEEN}, {B}, {}, {B: 2.0}), "boot-1"), "boot-2")
    assert saved.verified == {A: SEEN}
    assert saved.unpersisted == set()
    assert saved.needed_at == {B: 2.0}, "its place in the eviction order counts again once it was verified"


def test_a_file_of_the_first_versions_has_no_times() -> None:
    text = json.dumps({"boot": "b", "fetchedBytesTotal": 1, "verified": {f"{1:064x}": [10, 11, 12, True]}})
    assert decode_records(text, "b") == Records({A: Fingerprint(10, 11, 12)}, fetched_bytes=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"boot": "b", "fetchedBytesTotal": "many", "verified": {}}',
        '{"boot": "b", "fetchedBytesTotal": 1e999, "verified": {}}',
        '{"boot": "b", "fetchedBytesTotal": 1, "verified": []}',
        '{"boot": "b", "fetchedBytesTotal": 1, "verified": {"x": [1, 2, 3, true]}}',
        '{"boot": "b", "fetchedBytesTotal": 1, "verified": {"' + "0" * 64 + '": [1, 2]}}',
        '{"boot": "b", "fetchedBytesTotal": 1, "verified": {"' + "0" * 64 + '": 5}}',
        '{"boot": "b", "fetchedBytesTotal": 1, "verified": {}, "readAt": [1]}',
        '{"boot": "b", "fetchedBytesTotal": 1, "verified": {}, "neededAt": {"' + "0" * 64 + '": "x"}}',
    ],
)
def test_a_file_that_cannot_be_understood_is_one_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (of json or of ours)
        decode_records(text, "b")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(json_values, json_values, json_values, json_values)
def test_whatever_the_file_has_is_understood_or_a_value_error(
    boot: object, fetched: object, verified: object, times: object
) -> None:
    state = {"boot": boot, "fetchedBytesTotal": fetched, "verified": verified, "readAt": times}
    with contextlib.suppress(ValueError):
        decode_records(json.dumps(state), "b")


def test_only_a_file_that_differs_has_to_be_persisted_again() -> None:
    records = Records()
    records.add(A, SEEN, 1.0)
    assert records.unpersisted == {A}
    records.unpersisted.clear()
    records.add(A, SEEN, 2.0)
    assert (records.unpersisted, records.read_at, records.needed_at) == (set(), {A: 2.0}, {A: 1.0})
    records.add(A, Fingerprint(10, 99, 12, 13), 3.0)
    assert records.unpersisted == {A}


def test_a_forgotten_layer_leaves_nothing() -> None:
    records = Records()
    records.add(A, SEEN, 1.0)
    records.touch([A], 1.0)
    records.forget(A)
    records.forget(B)
    assert records == Records()


def test_the_longest_unread_layers_come_first() -> None:
    records = Records({A: SEEN, B: SEEN, digest(3): SEEN}, read_at={A: 5.0, B: 3.0})
    assert records.read_before(5.0, now_s=9.0) == [digest(3), B, A]
    assert records.read_before(4.9, now_s=9.0) == [digest(3), B]


def test_layers_that_were_read_in_the_future_are_read_again() -> None:
    records = Records({A: SEEN, B: SEEN}, read_at={A: 5.0, B: 99.0})
    assert records.read_before(1.0, now_s=9.0) == [B]


def test_only_verified_layers_are_recorded_as_needed() -> None:
    records = Records()
    records.add(A, SEEN, 1.0)
    records.touch([A, B], 7.0)
    assert records.needed_at == {A: 7.0}


def test_a_layer_that_returns_after_a_reboot_is_as_needed_as_one_that_was_just_fetched() -> None:
    """Else it would be evicted before all others."""
    records = Records(needed_at={A: 3.0})
    records.add(A, SEEN, 8.0)
    records.add(B, SEEN, 8.0)
    assert records.needed_at == {A: 3.0, B: 8.0}
