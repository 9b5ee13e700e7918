"""``python -m tools.release OUT [--images PREFIX]``: all files of a release, from a clean checkout.

The files depend on the commit alone: times are those of the commit, or ``$SOURCE_DATE_EPOCH``. It needs PyPI and a
mirror of Debian, and no registry and no container runtime.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from localcluster.bounded import QUICK_S, run
from localcluster.paths import cache_dir
from tools.chart.__main__ import project_version, write_chart
from tools.chart.build import Release
from tools.release.extra import ROOT
from tools.release.images import build_layers, write_images
from tools.release.install_yaml import install_yaml
from tools.release.notes import release_notes
from tools.release.sbom import bill
from tools.release.wheels import build_wheel

DEFAULT_PREFIX = "kigi"
"""``kigi-operator:VERSION``; with ``registry.example/kigi``, ``registry.example/kigi-operator:VERSION``."""
_MADE = ("kigi-*", "install.yaml", "RELEASE_NOTES.md", "SHA256SUMS*")
"""Names of the files that a release has, and of their signatures."""


class NotClean(RuntimeError):
    """The checkout has changes that are in no commit."""


class OtherFiles(RuntimeError):
    """The directory has files that a release would remove, or list in its checksums."""


def commit(*, dirty: bool) -> tuple[str, int]:
    """Commit of the checkout and its time. Raises NotClean, unless ``dirty``."""
    changes = _git("status", "--porcelain")
    if changes and not dirty:
        raise NotClean(f"the checkout has changes; commit them, or use --dirty for a test:\n{changes}")
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct")
    return _git("rev-parse", "HEAD"), int(epoch)


def build(directory: Path, prefix: str, *, dirty: bool = False) -> None:
    """Write all files into ``directory``."""
    revision, epoch = commit(dirty=dirty)
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    version = project_version()
    release_notes((ROOT / "CHANGELOG.md").read_text(), version, {})  # before the long part
    clear(directory)
    step = _Steps()
    wheel = build_wheel(directory, epoch)
    step(wheel.name)
    layers = build_layers(wheel, cache_dir() / "debs", epoch)
    step("layers")
    digests = write_images(layers, directory, version, _time(epoch), image_labels(version, revision))
    step("images")
    write_others(directory, prefix, version, wheel, digests, epoch)
    step("install.yaml, chart, bill of materials, notes, checksums")


def clear(directory: Path) -> None:
    """An existing directory without the files of an earlier release. Raises OtherFiles, and removes none then."""
    directory.mkdir(parents=True, exist_ok=True)
    files = [path for path in directory.iterdir() if path.is_file()]
    if others := sorted(path.name for path in files if not any(path.match(pattern) for pattern in _MADE)):
        raise OtherFiles(f"{directory}: {', '.join(others)}: no file of a release; move it, or name another directory")
    for path in files:
        path.unlink()


def write_others(
    directory: Path, prefix: str, version: str, wheel: Path, digests: Mapping[str, str], epoch: int
) -> None:
    """What follows from the images: ``install.yaml``, chart, bill of materials, notes and checksums."""
    notes = (ROOT / "CHANGELOG.md").read_text()
    images = {name: f"{prefix}-{name}:{version}@{digest}" for name, digest in digests.items()}
    write_chart(directory, Release(version, images))
    (directory / "install.yaml").write_text(install_yaml(ROOT / "manifests", images))
    (directory / f"kigi-{version}.cdx.json").write_text(bill(version, _sha256(wheel), epoch))
    (directory / "RELEASE_NOTES.md").write_text(release_notes(notes, version, digests))
    write_checksums(directory)


def write_checksums(directory: Path) -> None:
    """``SHA256SUMS`` of all files of the directory, as sha256sum reads it."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != "SHA256SUMS")
    (directory / "SHA256SUMS").write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in files))


def image_labels(version: str, revision: str) -> Mapping[str, str]:
    """Labels of all images. ``revision``: the commit."""
    label = "org.opencontainers.image."
    return {
        f"{label}version": version,
        f"{label}revision": revision,
        f"{label}licenses": "Apache-2.0",
        f"{label}description": "Systems of virtual machines on KubeVirt, from trees of differential qcow2 layers.",
        f"{label}base.name": "debian:trixie packages, pinned in image/debian.lock",
    }


def _time(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git(*arguments: str) -> str:
    return run(["git", "-C", str(ROOT), *arguments], timeout_s=QUICK_S).stdout.strip()


class _Steps:
    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, done: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._started:5.0f} s  {done}\n")
        sys.stdout.flush()


def main() -> int:
    """Build a release; exit code 1 with the reason if it cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--images", default=DEFAULT_PREFIX, help="registry and prefix, such as registry.example/kigi")
    parser.add_argument("--dirty", action="store_true", help="build a checkout with changes, for a test")
    options = parser.parse_args()
    try:
        build(options.directory, options.images, dirty=options.dirty)
    except (RuntimeError, ValueError) as error:
        sys.stderr.write(f"release: {error}\n")
        return 1
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"release: {error}\n{error.stderr or ''}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
