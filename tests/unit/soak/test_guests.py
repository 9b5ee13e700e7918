"""A guest's report is compared with that of the start of the run."""

from __future__ import annotations

from soak.guests import compare

BEFORE = {"machine": "mail1", "state": "infected", "boot": "1", "marker": "running", "mac": "02:00", "uuid": "u"}
LINE = "KIGI-GUEST machine=mail1 state=infected boot={boot} marker=running mac=02:00 uuid=u serial=s\r\n"


def test_the_same_report_is_not_a_finding() -> None:
    assert compare("mail1", {**BEFORE, "serial": "s"}, "noise\r\n" + LINE.format(boot=1)) == []


def test_another_boot_is_a_finding() -> None:
    (finding,) = compare("mail1", {**BEFORE, "serial": "s"}, LINE.format(boot=1) + LINE.format(boot=2))
    assert (finding.check, finding.subject, finding.text) == ("guests", "mail1", "boot was 1 and is 2")


def test_the_last_field_of_an_incomplete_line_is_ignored() -> None:
    assert compare("mail1", BEFORE, "KIGI-GUEST machine=mail1 state=infected boot=2") == []
