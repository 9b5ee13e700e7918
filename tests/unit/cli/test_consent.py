"""Destructive verbs ask on a terminal, and refuse without one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kigi.cli.consent import Consent
from kigi.cli.exit_codes import ExitCode
from tests.support.answering import AnsweringServer

META = {"namespace": "range", "uid": "u", "resourceVersion": "1", "generation": 1}
DEPLOYMENT = {"kind": "SystemDeployment", "metadata": {"name": "office", **META}, "spec": {"systemRef": {"name": "a"}}}
INSTANCE = {
    "metadata": {"name": "office-1", **META},
    "spec": {"deploymentRef": {"name": "office"}, "name": "1"},
    "status": {"machines": [{"name": "mail", "nodeName": "node-a", "writtenBytes": 3 * 2**20}]},
}


def reply(method: str, path: str) -> tuple[int, object]:
    what = path.partition("?")[0].rpartition("/")[2]
    if what == "selfsubjectreviews":
        return 201, {"status": {"userInfo": {"username": "alice"}}}
    if what == "nodes":
        return 403, {"message": "no"}
    if what == "systeminstances":
        return 200, {"metadata": {}, "items": [INSTANCE]}
    if method == "POST":
        return 201, {"metadata": {"name": "office-x", **META}, "spec": {}}
    return (200, DEPLOYMENT) if what == "office" else (200, {"metadata": {}, "items": []})


def ask(folder: Path, answer: str | None, *options: str) -> tuple[int, str, bool]:
    """Exit code and output of ``kigi reset``, and whether it created the request. ``answer`` None: no terminal."""
    with AnsweringServer(reply) as server:
        kubeconfig = server.kubeconfig(folder / "kubeconfig")
        inner, outer = pty.openpty()
        if answer is not None:
            os.write(inner, answer.encode())
        done = subprocess.run(
            [sys.executable, "-m", "kigi.cli.main", "reset", "office", "1", *options],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stdin=outer if answer is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(outer)
        os.close(inner)
        made = any(method == "POST" and "systemresets" in path for method, path, *_ in server.asked)
    return done.returncode, done.stdout + done.stderr, made


def test_a_person_sees_what_is_lost_and_agrees(tmp_path: Path) -> None:
    code, text, made = ask(tmp_path, "y\n")
    assert (code, made) == (0, True)
    assert "reset 1 machines of instance 1, and lose 3.0 MiB that guests wrote?" in text
    assert "restart on a fresh disk" in text


@pytest.mark.parametrize("answer", ["n\n", "\n", None])
def test_anything_else_changes_nothing(tmp_path: Path, answer: str | None) -> None:
    code, text, made = ask(tmp_path, answer)
    assert (code, made) == (ExitCode.NOT_CONFIRMED, False)
    assert "nothing was changed" in text
    assert ("give --yes" in text) == (answer is None)


def test_yes_does_not_ask_and_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    assert ask(tmp_path, None, "--yes")[::2] == (0, True)
    code, text, made = ask(tmp_path, None, "--dry-run")
    assert (code, made) == (0, False)
    assert "loses 3.0 MiB that guests wrote" in text
    assert ask(tmp_path, None, "--dry-run", "--yes")[::2] == (0, False), "a dry run is one in any case"


def test_a_preview_is_made_unless_the_caller_has_agreed() -> None:
    assert [Consent().needs_preview, Consent(yes=True).needs_preview, Consent(True, True).needs_preview] == [
        True,
        False,
        True,
    ]
