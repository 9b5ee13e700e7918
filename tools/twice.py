"""Runs pytest, and its few failed tests once more, alone: ``python -m tools.twice PYTEST-ARGUMENTS``.

Tests run beside others on a machine that may be busy. A test that fails there and passes alone is named as flaky, with
the first failure above it: it has a fault to fix, in the test or in Kigi, but it does not end the run. A test that
fails twice does, and so do more failures than ``MOST``, errors of collection, and an interrupted run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

MOST = 3
"""More tests than these do not fail by chance."""
FAILED = 1
"""pytest's exit code when tests ran and some failed; greater codes are other errors."""
RECORD = Path(".pytest_cache/v/cache/lastfailed")

Run = Callable[[Sequence[str]], int]


def pytest(arguments: Sequence[str]) -> int:
    """Exit code of pytest with these arguments, in a process of its own."""
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def failed_tests(record: Path) -> list[str]:
    """Node ids of the tests that failed in the last run, as pytest's cache has them."""
    return sorted(json.loads(record.read_text())) if record.exists() else []


def run_twice(arguments: Sequence[str], run: Run = pytest, record: Path = RECORD) -> int:
    """Exit code of the first run, or 0 if its failed tests, at most ``MOST``, pass alone."""
    record.unlink(missing_ok=True)  # else it also has failures of other tests, of earlier runs
    code = run(arguments)
    failed = failed_tests(record)
    if code != FAILED or not 0 < len(failed) <= MOST:
        return code
    print(f"\n{len(failed)} failed; once more, alone:", flush=True)
    if again := run(failed):
        return again
    for name in failed:
        print(f"FLAKY {name}: failed beside other tests, passed alone. Find the reason in the first output above.")
    return 0


if __name__ == "__main__":
    sys.exit(run_twice(sys.argv[1:]))
