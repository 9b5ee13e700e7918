"""The wheel without extras in a fresh environment: small, and every verb works or names the extra that it needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kigi.cli.main import VERBS
from kigi.extras import EXTRA_OF
from tests.support.answering import AnsweringServer
from tests.support.installation import ROOT, Installation, build_wheel, constraints, copy_sources

CORE_MB = 40
"""Measured: 33."""
PROGRAMS = {
    "kigi-operator": "operator",
    "kigi-cache": "daemon",
    "kigi-capture-publisher": "daemon",
    "kigi-disk-hook": "hook",
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("core")
    return Installation.make(folder / "venv", build_wheel(folder))


def test_the_core_is_small_and_has_no_package_of_an_extra(core: Installation) -> None:
    assert core.importable(*EXTRA_OF, "click", "kigi_cache") == {"click", "kigi_cache"}
    assert core.size_mb() <= CORE_MB


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_starts(core: Installation, verb: str) -> None:
    done = core.run("kubectl-kigi", verb, "-h")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: kubectl-kigi {verb}")


def test_reading_verbs_answer(core: Installation, tmp_path: Path) -> None:
    with AnsweringServer(lambda method, path: (200, {"metadata": {}, "items": []})) as server:
        kubeconfig = str(server.kubeconfig(tmp_path / "kubeconfig"))
        for verb in ("status", "tree", "why", "version"):
            done = core.run("kigi", verb, "-o", "json", KUBECONFIG=kubeconfig)
            assert done.returncode == 0, done.stderr
            json.loads(done.stdout)
        planned = core.run("kigi", "plan", "-f", "absent.yaml", KUBECONFIG=kubeconfig)
        assert "Traceback" not in planned.stderr, "the models are part of the core"
        assert "absent.yaml" in planned.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_without_its_packages_names_the_command_that_installs_them(core: Installation, program: str) -> None:
    done = core.run(program)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        rf"{program} needs the Python package \w+, which is not installed: pip install 'kigi\[{PROGRAMS[program]}\]'",
        line,
    )


def test_publish_names_the_command_that_installs_its_packages(core: Installation) -> None:
    done = core.run("kigi", "publish", "disk.qcow2", "--name", "disk")
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'kigi[publish]'\n")


@pytest.mark.timeout(1200)  # it downloads what pip's cache lacks
def test_the_documented_commands_install_the_command_line(tmp_path: Path) -> None:
    """The block of docs/cli.md for systems whose Python refuses installations (PEP 668), word by word."""
    text = (ROOT / "docs/cli.md").read_text()
    block = text.partition("test_packaging.py runs this block. -->\n```sh\n")[2].partition("```")[0]
    assert "pip install '.[publish]'" in block
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "HOME": str(home),
        "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin",
        "PIP_CONSTRAINT": str(constraints(tmp_path)),
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")},
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache/pip")),
    }
    source = copy_sources(tmp_path / "source")
    done = subprocess.run(["sh", "-e", "-c", block], cwd=source, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("kigi", "kubectl-kigi"):
        version = subprocess.run([home / ".local/bin" / name, "--version"], capture_output=True, text=True, check=True)
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", version.stdout)
    here = {**env, "KUBECONFIG": str(tmp_path / "none"), "KIGI_S3_ENDPOINT": "http://127.0.0.1:1"}
    publish = subprocess.run(
        [home / ".local/bin/kigi", "publish", "absent.qcow2", "--name", "x"],
        env={**here, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "absent.qcow2" in publish.stderr, "its packages are there: it looks for the file"
