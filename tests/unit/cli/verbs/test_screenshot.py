"""A picture of a screen is saved if it is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kigi.cli.main import app
from kigi.cli.verbs.screenshot import PNG
from tests.support.answering import AnsweringServer


def shoot(folder: Path, status: int, content: Any) -> tuple[Any, list[tuple[str, str, dict[str, str], Any]]]:
    with AnsweringServer(lambda method, path: (status, content)) as server:
        config = server.kubeconfig(folder / "kubeconfig")
        named = ("office", "mail1", "--instance", "7", "--to", str(folder / "x.png"), "--kubeconfig", str(config))
        return CliRunner().invoke(app, ["screenshot", *named]), server.asked


def test_the_picture_is_that_of_the_named_machine(tmp_path: Path) -> None:
    done, asked = shoot(tmp_path, 200, PNG + b"data")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "x.png").read_bytes() == PNG + b"data"
    ((method, path, headers, _),) = asked
    assert method == "GET"
    assert path.endswith("/namespaces/range/virtualmachineinstances/office-7-mail1/vnc/screenshot")
    assert headers["Accept"] == "image/png", "KubeVirt answers 406 to a client that takes JSON alone"


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (404, {"message": "no"}, "does not run"),
        (403, {"message": "no"}, "as kigi-instructor gives"),
        (200, b"<html>", "the answer is no picture"),
        (200, b"", "the answer is no picture"),
    ],
)
def test_anything_else_leaves_no_file(tmp_path: Path, status: int, content: Any, words: str) -> None:
    done, _ = shoot(tmp_path, status, content)
    assert words in str(done.exception)
    assert not (tmp_path / "x.png").exists()
