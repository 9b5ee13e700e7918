from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.twice import FAILED, RECORD, failed_tests, run_twice


class Pytest:
    """Plays runs, each with an exit code and the tests that it records as failed."""

    def __init__(self, record: Path, *runs: tuple[int, list[str]]) -> None:
        self.record, self.runs, self.calls = record, list(runs), list[list[str]]()

    def __call__(self, arguments: Sequence[str]) -> int:
        self.calls.append(list(arguments))
        code, failed = self.runs.pop(0)
        if failed:
            self.record.write_text(json.dumps(dict.fromkeys(failed, True)))
        return code


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "lastfailed"


def test_a_run_that_passes_is_the_only_one(record: Path) -> None:
    record.write_text('{"tests/old.py::test_fixed": true}')
    run = Pytest(record, (0, []))
    assert run_twice(["tests/unit"], run, record) == 0
    assert run.calls == [["tests/unit"]]


def test_a_test_that_passes_alone_is_named_and_does_not_end_the_run(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Pytest(record, (1, ["a.py::test_x[1]"]), (0, []))
    assert run_twice(["-n", "3", "tests"], run, record) == 0
    assert run.calls == [["-n", "3", "tests"], ["a.py::test_x[1]"]]
    assert "FLAKY a.py::test_x[1]" in capsys.readouterr().out


def test_a_test_that_fails_twice_ends_the_run(record: Path) -> None:
    run = Pytest(record, (1, ["a.py::test_x"]), (1, ["a.py::test_x"]))
    assert run_twice(["tests"], run, record) == 1


@pytest.mark.parametrize(("code", "failures"), [(1, 4), (2, 1), (3, 0), (4, 0), (5, 0), (-9, 2), (1, 0)])
def test_other_failures_end_the_run_at_once(record: Path, code: int, failures: int) -> None:
    run = Pytest(record, (code, [f"a.py::test_{i}" for i in range(failures)]))
    assert run_twice(["tests"], run, record) == code
    assert len(run.calls) == 1


def test_pytest_writes_the_record_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    (tmp_path / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "-n", "2"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == FAILED
    assert failed_tests(tmp_path / RECORD) == ["test_two.py::test_bad"]
