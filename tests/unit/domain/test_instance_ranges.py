"""Instances as a person names them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.instance_ranges import (
    MAX_NAMED,
    InstanceUnknown,
    Selection,
    exact_instances,
    format_instances,
    parse_instances,
)
from kigi.errors import SpecInvalid

THIRTY = tuple(str(number) for number in range(1, 31))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("7", ("7",)),
        ("1-3,12", ("1", "2", "3", "12")),
        ("12,1-3", ("1", "2", "3", "12")),
        ("3-3", ("3",)),
        ("1-3,2-4", ("1", "2", "3", "4")),
        (" 1 , 2 ", ("1", "2")),
        ("red,blue,2", ("2", "blue", "red")),
        ("08-11", ("08", "09", "10", "11")),
        ("0-1", ("0", "1")),
        ("team7", ("team7",)),
    ],
)
def test_numbers_ranges_and_names_are_read(text: str, names: tuple[str, ...]) -> None:
    assert parse_instances(text) == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no instance; write numbers, ranges and names with commas, such as 7 or 1-8,12 or red,blue"),
        ("1,,2", "'' of '1,,2' is no instance"),
        ("1-", "'1-' is no instance"),
        ("-3", "'-3' is no instance"),
        ("1-2-3", "'1-2-3' is no instance"),
        ("1,a-b", "'a-b' of '1,a-b' is no instance"),
        ("Red", "'Red' is no instance"),
        ("a/b", "'a/b' is no instance"),
        ("1;2", "'1;2' is no instance"),
        ("x" * 17, "is no instance"),
        ("\u0661", "is no instance"),
        ("8-1", "the range 8-1 ends before it begins; write 1-8"),
        ("1-999999999", f"the range 1-999999999 has more than {MAX_NAMED} instances"),
        ("1-2000,3000-4000", "names more than 2000 instances"),
    ],
)
def test_another_text_is_refused_with_the_wrong_part(text: str, words: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse_instances(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_instance_that_does_not_exist_is_named_beside_those_that_do() -> None:
    with pytest.raises(InstanceUnknown, match=r"^instance 31 does not exist: office has 1-30$"):
        Selection(parse_instances("30-31")).choose("office", THIRTY)
    with pytest.raises(InstanceUnknown, match=r"^instances 31-33,red do not exist: office has 1-30$"):
        Selection(parse_instances("31-33,red")).choose("office", THIRTY)
    with pytest.raises(InstanceUnknown, match="office has no instances yet"):
        Selection(("1",)).choose("office", ())
    with pytest.raises(InstanceUnknown, match="instance 31 does not exist"):
        Selection(("31",), is_exclusion=True).choose("office", THIRTY)


def test_an_exclusion_chooses_all_others() -> None:
    assert Selection(("3",), is_exclusion=True).choose("office", ("10", "3", "2", "red")) == ("2", "10", "red")
    with pytest.raises(InstanceUnknown, match="no instance is left: office has only 1,2"):
        Selection(("1", "2"), is_exclusion=True).choose("office", ("1", "2"))


def test_many_ranges_are_shortened_for_a_person_and_not_for_a_command() -> None:
    odd = [str(number) for number in range(1, 61, 2)]
    assert format_instances(odd) == "1,3,5,7,9,11,13,15,17,19,21,23 and 18 more"
    assert parse_instances(exact_instances(odd)) == tuple(odd)
    assert format_instances(["08", "09", "10", "11", "12"]) == "08,09,10-12"
    assert format_instances(()) == ""


@given(st.sets(st.from_regex(r"[a-z0-9]{1,4}", fullmatch=True), min_size=1, max_size=60))
def test_what_is_written_is_read_as_the_same(names: set[str]) -> None:
    assert set(parse_instances(exact_instances(names))) == names
