"""Debian packages as files: downloaded with apt and unpacked, but not installed on this machine."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from localcluster import bounded


class BuildFailed(Exception):
    """A tool failed or is missing; the message has its command line and the end of its output, or the remedy."""


def run(
    *command: str | Path,
    cwd: Path | None = None,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = bounded.DOWNLOAD_S,
) -> str:
    """Standard output and error of a command.

    Raises BuildFailed if it cannot start, exits with a status other than 0, or does not end within ``timeout_s``.
    """
    words = [str(word) for word in command]
    try:
        done = bounded.run(
            words,
            timeout_s=timeout_s,
            cwd=cwd,
            input_text=stdin,
            env={**os.environ, **(env or {})},
            merged=True,
            check=False,
        )
    except bounded.TimedOut as exc:
        raise BuildFailed(str(exc)) from exc
    except FileNotFoundError as exc:
        raise BuildFailed(f"{words[0]} is not installed; scenario/README.md lists the requirements of a build") from exc
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise BuildFailed(f"{' '.join(words)} ended with {done.returncode}:\n{tail}")
    return done.stdout


def cache_dir() -> Path:
    """Folder of packages and finished levels that later builds use; outside the repository."""
    base = os.environ.get("KIGI_CACHE")
    if base:
        return Path(base) / "scenario"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "kigi" / "scenario"


def kernel_package() -> str:
    """Name of the kernel package that the newest linux-image-cloud-amd64 depends on."""
    shown = run("apt-cache", "show", "--no-all-versions", "linux-image-cloud-amd64")
    found = re.search(r"^Depends: (linux-image-\S+)", shown, re.MULTILINE)
    if not found:
        raise BuildFailed("apt has no package linux-image-cloud-amd64; run apt-get update")
    return found[1]


def unpack(packages: Sequence[str], cache: Path) -> dict[str, Path]:
    """Package -> folder with its contents; each version is downloaded only once."""
    shown = run("apt-cache", "show", "--no-all-versions", *packages)
    names = re.findall(r"^Package: (\S+)", shown, re.MULTILINE)
    versions = dict(zip(names, re.findall(r"^Version: (\S+)", shown, re.MULTILINE), strict=True))
    folders: dict[str, Path] = {}
    for package in packages:
        target = cache / "packages" / f"{package}_{versions[package].replace(':', '%3a')}"
        if not target.is_dir():
            _fetch(package, target)
        folders[package] = target
    return folders


def _fetch(package: str, target: Path) -> None:
    work = target.with_name(f".{target.name}.{os.getpid()}")
    work.mkdir(parents=True)
    try:
        run("apt-get", "download", "-o", "APT::Sandbox::User=root", package, cwd=work)
        (archive,) = work.glob("*.deb")
        run("dpkg-deb", "--extract", archive, work / "root")
        (work / "root").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
