"""Exit codes are documented, and follow from the class of the error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kigi.cli.exit_codes import ExitCode, NotReached, OptionInvalid, code_of
from kigi.errors import Forbidden, KigiError, RepositoryUnreachable, SpecInvalid, Unreachable
from kigi.extras import ExtraMissing
from tests.support.answering import AnsweringServer

PAGE = Path(__file__).parents[3] / "docs/cli.md"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecInvalid("x"), 1),
        (Forbidden("x"), 1),
        (ExtraMissing("x"), 1),
        (OptionInvalid("x"), 2),
        (NotReached("x"), 3),
        (Unreachable("x"), 4),
        (RepositoryUnreachable("x"), 4),
    ],
)
def test_an_error_has_the_code_of_its_class(error: KigiError, code: int) -> None:
    assert code_of(error) == code


def test_the_page_lists_every_code() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)} == set(ExitCode)


def test_an_interrupted_verb_ends_with_130(tmp_path: Path) -> None:
    """``kigi reset --wait`` while the operator is away."""
    body = {
        "metadata": {"name": "x", "namespace": "range", "uid": "u", "generation": 1, "resourceVersion": "1"},
        "spec": {},
        "status": {"userInfo": {"username": "alice"}},
    }
    with AnsweringServer(lambda method, path: (200, body)) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "kigi.cli.main", "reset", "office", "--yes", "--wait", "600"],
            env={**os.environ, "KUBECONFIG": str(server.kubeconfig(tmp_path / "kubeconfig"))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
        deadline = time.monotonic() + 60
        while len(server.asked) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.INTERRUPTED
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read().decode()
        process.stderr.close()
