"""Stored samples can be read back unchanged, so that a run can be checked later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from soak import checks, stored
from tests.unit.soak.test_checks import FAULTS, run


@pytest.mark.parametrize("name", FAULTS)
def test_samples_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    samples = [replace(one, failures=("part: error",)) for one in FAULTS[name][2]]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(stored.line(sample) for sample in samples))
    assert stored.load(path) == samples


def test_a_stored_clean_run_has_no_findings(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(stored.line(sample) for sample in run()))
    assert checks.find(stored.load(path)) == []
