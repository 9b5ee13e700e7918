from __future__ import annotations

import pytest

from kigi.cli.causes import CAUSES
from tools.troubledoc import groups, render_troubleshooting


def test_the_page_has_each_reason_once_with_cause_and_remedy() -> None:
    page = render_troubleshooting()
    for reason, (cause, remedy) in CAUSES.items():
        assert page.count(f"### {reason}\n") == 1
        text = page.partition(f"### {reason}\n")[2].partition("\n#")[0]
        assert cause[1:].rstrip(".") in text
        assert (remedy[1:].rstrip(".") or "Kigi continues by itself.") in text


def test_a_reason_without_a_subject_is_refused() -> None:
    with pytest.raises(ValueError, match="Lost has no comment"):
        list(groups('CAUSES = {\n    "Lost": Cause("x"),\n}\n'))
