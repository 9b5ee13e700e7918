"""Python packages of the images, for an architecture that need not be this machine's, and Kigi's own wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from localcluster.bounded import BUILD_S, DOWNLOAD_S, run
from tools.release.extra import ROOT

PYTHON = "3.13"
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
"""Where Debian's Python looks for packages that are not Debian's."""
_PLATFORMS = {"amd64": "x86_64-manylinux_2_40", "arm64": "aarch64-manylinux_2_40"}
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "operator", "node-cache-daemon")
_BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def install(lock: Path, architecture: str, target: Path) -> None:
    """Install the wheels of a lock file into ``target``; each has a hash there. Nothing is run or compiled."""
    uv = Path(sys.executable).with_name("uv")
    run(
        [
            str(uv), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--python-version", PYTHON, "--python-platform", _PLATFORMS[architecture], "--link-mode", "copy",
            "--target", str(target), "--requirements", str(lock),
        ],
        timeout_s=DOWNLOAD_S,
    )  # fmt: skip
    shutil.rmtree(target / "bin", ignore_errors=True)
    for name in (".lock", ".gitignore"):
        (target / name).unlink(missing_ok=True)


def build_wheel(target: Path, epoch: int) -> Path:
    """Kigi's wheel in ``target``; equal sources and ``epoch`` give equal bytes."""
    with tempfile.TemporaryDirectory() as folder:
        for name in _SOURCES:
            source, copy = ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(source, copy)
        _same_modes(Path(folder))
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
        call = [sys.executable, "-c", _BUILD, str(target.resolve())]
        done = subprocess.run(
            call, cwd=folder, env=environment, capture_output=True, text=True, timeout=BUILD_S, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"the wheel was not built:\n{done.stderr[-2000:]}")
        return target / done.stdout.split()[-1]


def _same_modes(folder: Path) -> None:
    """The modes that Git knows; the umask of a checkout must not change the wheel."""
    for path in folder.rglob("*"):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
