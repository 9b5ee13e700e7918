"""Each extra of the distribution in a fresh environment: its program starts, and its size. Minutes; no cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.installation import Installation, build_wheel

EXTRAS = {
    "publish": (95, "kigi", ("publish", "absent.qcow2", "--name", "x"), "absent.qcow2"),
    "hook": (65, "kigi-disk-hook", ("/absent",), "/absent"),
    "operator": (250, "kigi-operator", (), "KIGI"),
    "daemon": (260, "kigi-cache", (), "NODE_NAME: required"),
}
"""Extra -> largest size in MB (measured: 87, 59, 236, 240), a program of it, and words that it prints."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.e2e
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_its_program_imports(wheel: Path, tmp_path: Path, extra: str) -> None:
    size_mb, program, arguments, words = EXTRAS[extra]
    made = Installation.make(tmp_path / "venv", wheel, f"[{extra}]")
    variables = {
        "KIGI_S3_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "KIGI_WORKERS": "none",
    }
    done = made.run(program, *arguments, **variables)
    assert done.returncode != 0
    assert "needs the Python package" not in done.stderr
    assert words in done.stderr, done.stderr
    assert made.size_mb() <= size_mb
