"""Builds the wheel of this checkout, and installs it into fresh virtual environments with the locked versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "operator", "node-cache-daemon")
INSTALL_S = 900


def copy_sources(target: Path) -> Path:
    """What a build needs: the build writes into its folder."""
    target.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
        else:
            shutil.copy(source, target / name)
    return target


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout; needs no package index."""
    source = copy_sources(folder / "source")
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    pip(*command)
    (wheel,) = folder.glob("kigi-*.whl")
    return wheel


def constraints(folder: Path) -> Path:
    """The versions of requirements.lock, without hashes: a constraint may not have any."""
    text = (ROOT / "requirements.lock").read_text()
    path = folder / "constraints.txt"
    path.write_text("\n".join(re.findall(r"^([A-Za-z0-9_.-]+==[^ \\]+)", text, re.MULTILINE)))
    return path


def pip(*arguments: str) -> None:
    """Runs pip; AssertionError with its output if it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@dataclass(frozen=True)
class Installation:
    """A virtual environment with Kigi and some of its extras."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, wheel: Path, extras: str = "") -> Installation:
        """``extras``: such as ``[publish]``."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        made = cls(folder)
        lock = constraints(folder)
        pip(
            "--python", str(made.program("python")), "install", "--quiet", "--constraint", str(lock), f"{wheel}{extras}"
        )
        return made

    def program(self, name: str) -> Path:
        """A program of the environment."""
        return self.folder / "bin" / name

    def run(self, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs it with nothing of this process's environment."""
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **variables}
        command = [str(self.program(name)), *arguments]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL
        )

    def packages(self) -> Path:
        """Its site-packages."""
        (found,) = (self.folder / "lib").glob("python*/site-packages")
        return found

    def size_mb(self) -> int:
        """Size of its packages with compiled bytecode, in MB (10^6 bytes)."""
        return sum(path.stat().st_size for path in self.packages().rglob("*") if path.is_file()) // 10**6

    def importable(self, *modules: str) -> set[str]:
        """Those of the modules that it has."""
        code = "import importlib.util, sys; print(*(m for m in sys.argv[1:] if importlib.util.find_spec(m)))"
        return set(self.run("python", "-c", code, *modules).stdout.split())
