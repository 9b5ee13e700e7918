"""Debian packages of the images: pinned by their SHA-256 in ``image/debian.lock``, and fetched from any mirror.

``python -m tools.release.debian`` resolves them anew with apt, which checks the archive's signatures. A build needs
only the digests: it downloads each package once and runs no script of one, so that it builds for other architectures.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster.bounded import DOWNLOAD_S, QUICK_S, run
from localcluster.rootfs import SUITE, Mirrors

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "image/debian.lock"
ARCHITECTURES = ("amd64", "arm64")
SETS: Mapping[str, tuple[str, ...]] = {
    "base": ("base-files", "ca-certificates", "libstdc++6", "python3"),
    "qemu": ("qemu-utils",),
}
"""Part of an image -> packages that it asks for; ``qemu`` lies above ``base``."""
UNUSED = frozenset({"debconf", "dpkg", "mawk", "tar", "libmd0", "libacl1", "libpam-modules", "libpam-runtime"})
"""Dependencies of maintainer scripts alone, which never run."""
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_HEADER = "# Debian packages of the images, from `make image-lock`: set, architecture, archive, path, bytes, SHA-256.\n"


class PackageUnavailable(RuntimeError):
    """A pinned package could not be fetched; the text names it and the remedy."""


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One ``.deb``. ``archive``: ``debian`` or ``debian-security``; ``path``: below the mirror of that archive."""

    part: str
    architecture: str
    archive: str
    path: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the binary package."""
        return urllib.parse.unquote(Path(self.path).name.split("_")[0])

    @property
    def version(self) -> str:
        """Version as in the file's name, without epoch."""
        return urllib.parse.unquote(Path(self.path).name.split("_")[1])


def read_lock(path: Path = LOCK) -> tuple[Package, ...]:
    """All pinned packages."""
    found = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            part, architecture, archive, place, size, digest = line.split()
            found.append(Package(part, architecture, archive, place, int(size), digest))
    return tuple(found)


def write_lock(packages: Iterable[Package], path: Path = LOCK) -> None:
    """The lock as text, sorted."""
    lines = [
        f"{each.part} {each.architecture} {each.archive} {each.path} {each.size_bytes} {each.sha256}\n"
        for each in sorted(packages)
    ]
    path.write_text(_HEADER + "".join(lines))


def fetch(package: Package, cache: Path, mirrors: Mirrors) -> Path:
    """The package's file, from the cache or the mirror. Raises PackageUnavailable, also for another content."""
    target = cache / f"{package.sha256}.deb"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    site = {"debian": mirrors.main, "debian-security": mirrors.security}[package.archive]
    part = target.with_suffix(".part")
    url = f"{site.rstrip('/')}/{package.path}"
    done = run(["curl", "-fsSL", "--retry", "3", "-o", str(part), url], timeout_s=DOWNLOAD_S, check=False)
    if done.returncode != 0:
        raise PackageUnavailable(
            f"{url}: {done.stderr.strip()[-200:]}; the mirror has another version: run `make image-lock`, or set "
            "KIGI_DEBIAN_MIRROR to an archive that keeps old ones, such as snapshot.debian.org"
        )
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    if digest != package.sha256:
        part.unlink()
        raise PackageUnavailable(f"{url}: has the SHA-256 {digest}, and image/debian.lock has {package.sha256}")
    part.replace(target)
    return target


def resolve(mirrors: Mirrors) -> list[Package]:
    """Packages of all sets and architectures that the archive has now, each with all dependencies. Takes minutes."""
    found: list[Package] = []
    for architecture in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            apt = _Apt(Path(folder), architecture, mirrors)
            known: set[str] = set()
            asked: tuple[str, ...] = ()
            for part, names in SETS.items():
                asked += names
                packages = [each for each in apt.resolve(part, asked) if each.name not in UNUSED | known]
                known |= {each.name for each in packages}
                found += packages
    return found


class _Apt:
    """apt with files of its own, for one architecture and an empty system."""

    def __init__(self, folder: Path, architecture: str, mirrors: Mirrors) -> None:
        self._architecture, self._mirrors, self._folder = architecture, mirrors, folder
        for name in ("state/lists/partial", "cache/archives/partial", "etc"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        suites = ((mirrors.main, SUITE), (mirrors.main, f"{SUITE}-updates"), (mirrors.security, f"{SUITE}-security"))
        lines = [f"deb [signed-by={_KEYRING}] {site} {suite} main\n" for site, suite in suites]
        (folder / "etc/sources.list").write_text("".join(lines))
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "etc/sources.list",
            "Dir::Etc::sourceparts": "-",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        self._options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        self._call("update", "-qq")

    def resolve(self, part: str, names: Iterable[str]) -> list[Package]:
        uris = self._call("install", "--print-uris", "-qq", "-y", *names)
        self._call("install", "--download-only", "-qq", "-y", *names)
        found = []
        for line in uris.splitlines():
            url, file, size = line.split()[:3]
            data = (self._folder / "cache/archives" / file).read_bytes()
            archive, site = "debian", self._mirrors.main.rstrip("/")
            if not url.strip("'").startswith(f"{site}/"):
                archive, site = "debian-security", self._mirrors.security.rstrip("/")
            path = url.strip("'").removeprefix(f"{site}/")
            digest = hashlib.sha256(data).hexdigest()
            found.append(Package(part, self._architecture, archive, path, int(size), digest))
        return found

    def _call(self, *arguments: str) -> str:
        return run(["apt-get", *self._options, *arguments], timeout_s=DOWNLOAD_S).stdout


def control(deb: Path) -> str:
    """The control paragraph of a package, which scanners read to know what an image contains."""
    return run(["dpkg-deb", "--field", str(deb)], timeout_s=QUICK_S).stdout


def open_content(deb: Path) -> subprocess.Popen[bytes]:
    """A process whose standard output is the tar of the package's files."""
    return subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)


def main() -> None:
    """Write the lock anew."""
    packages = resolve(Mirrors.of_this_machine())
    write_lock(packages)
    sys.stdout.write(f"{LOCK}: {len(packages)} packages\n")


if __name__ == "__main__":
    main()
