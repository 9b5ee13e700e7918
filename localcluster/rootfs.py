"""Debian root file systems for the images: a base from debootstrap, and overlay layers with packages above it.

Each step runs in its own mount and PID namespace, so no mount outlives it. The step can use the machine's network
settings (name servers, CA bundle, proxies, package indexes), which never become part of a layer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster import images
from localcluster.bounded import DOWNLOAD_S, QUICK_S, locked, run
from localcluster.images import Layer

SUITE = "trixie"

# Read by pip, apt and curl: a development machine may reach package mirrors only with these settings.
_NETWORK_ENVIRONMENT = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT",
)  # fmt: skip
_STEP_S = 2 * DOWNLOAD_S
"""Timeout of one step: debootstrap, or download and installation of packages."""
_IN_USE_S = 1800  # a build imports a layer within this time after the layer's step
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_BUILD = "/run/kigi-build"  # on a tmpfs that exists only during the step

# Removes files that an image does not need: package lists, caches and logs.
_SCRUB = """rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
rm -rf /var/log/*.log /var/log/apt /tmp/* /root/.cache
"""


@dataclass(frozen=True, slots=True)
class Root:
    """A finished root file system: its overlay directories, bottom first, and the image layers made of them."""

    directories: tuple[Path, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Mirrors:
    """URLs of Debian's package mirrors, taken from this machine's apt whatever its release is."""

    main: str
    security: str

    @classmethod
    def of_this_machine(cls) -> Mirrors:
        """Mirrors of this machine's apt; ``$KIGI_DEBIAN_MIRROR`` has priority. Raises RuntimeError without a mirror."""
        command = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"]
        lines = run(command, timeout_s=QUICK_S).stdout.split("\n")
        sites = {release: site for site, _, release in (line.partition(" ") for line in lines) if site}
        main = os.environ.get("KIGI_DEBIAN_MIRROR") or next((s for r, s in sites.items() if "-" not in r), None)
        if main is None:
            raise RuntimeError(
                "apt's sources on this machine have no Debian mirror; add one, or set KIGI_DEBIAN_MIRROR"
            )
        security = next((s for r, s in sites.items() if r.endswith("-security")), None)
        return cls(main, security or f"{main.rstrip('/')}-security")

    def sources(self) -> str:
        """Content of the image's sources.list."""
        main = f"deb {self.main} {SUITE} main\ndeb {self.main} {SUITE}-updates main\n"
        return f"{main}deb {self.security} {SUITE}-security main\n"


def key(*parts: str | bytes) -> str:
    """Hash of the parts as 16 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def base(cache: Path) -> Root:
    """Debian's minimal system, the equivalent of the Dockerfile's `debian:trixie-slim`."""
    mirrors = Mirrors.of_this_machine()
    name = f"base-{SUITE}-{key(mirrors.sources(), '2')}"
    directory, target = cache / "roots" / name, cache / "layers" / f"{name}.tar"
    with locked(directory.with_suffix(".lock"), f"building {directory.name}"):
        layer = images.load(target)
        if layer is None or not directory.is_dir():
            part = directory.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.parent.mkdir(parents=True, exist_ok=True)
            _run(["debootstrap", "--variant=minbase", SUITE, str(part), mirrors.main], cache / "logs" / f"{name}.log")
            (part / "etc/apt/sources.list").write_text(mirrors.sources())
            # debootstrap copies this machine's host name and name servers; containers get those of the cluster.
            for copied in ("etc/resolv.conf", "etc/hostname"):
                (part / copied).unlink(missing_ok=True)
                (part / copied).write_text("")
            for path in (
                "var/cache/apt/archives",
                "var/lib/apt/lists",
                "usr/share/doc",
                "usr/share/man",
                "usr/share/locale",
            ):
                _empty(part / path)
            (part / "etc/apt/apt.conf.d/70no-translations").write_text('Acquire::Languages "none";\n')
            (part / "etc/dpkg/dpkg.cfg.d/70no-docs").write_text(
                "path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n"
            )
            shutil.rmtree(directory, ignore_errors=True)
            part.replace(directory)
            layer = images.pack(directory, target, exclude=("dev", "proc", "sys", "run"))
    return Root((directory,), (layer,))


def extend(
    cache: Path,
    below: Root,
    name: str,
    script: str,
    *,
    binds: Mapping[str, Path] | None = None,
    salt: Sequence[bytes] = (),
) -> Root:
    """``below`` and one more layer with the changes that ``script`` (sh) makes when it runs in it as root.

    The cache key is the script, the layers below and ``salt`` (contents that the script reads). ``binds`` are
    directories mounted read-only at /run/kigi-build/<name> while the script runs. Raises CalledProcessError with the
    end of the log.
    """
    name = f"{name}-{key(script, *(layer.digest for layer in below.layers), *salt)}"
    directory, target = cache / "roots" / name, cache / "layers" / f"{name}.tar"
    with locked(directory.with_suffix(".lock"), f"building {directory.name}"):
        layer = images.load(target)
        if layer is None or not directory.is_dir():
            part, work = directory.with_suffix(".part"), directory.with_suffix(".work")
            for path in (part, work):
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
            _in_root(below.directories, part, work, script, binds or {}, cache / "logs" / f"{name}.log")
            shutil.rmtree(work)
            shutil.rmtree(directory, ignore_errors=True)
            part.replace(directory)
            layer = images.pack(directory, target, exclude=("dev", "proc", "sys", "run", "usr/sbin/policy-rc.d"))
    return Root((*below.directories, directory), (*below.layers, layer))


def forget(cache: Path, prefix: str, kept: Collection[str]) -> None:
    """Remove stored steps with this name prefix, except ``kept`` and those young enough to be in use by a build."""
    limit = time.time() - _IN_USE_S
    for folder in ("roots", "layers"):
        for path in (cache / folder).glob(f"{prefix}*"):
            if path.stem not in kept and path.stat().st_mtime < limit:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _in_root(
    lowers: Sequence[Path], upper: Path, work: Path, script: str, binds: Mapping[str, Path], log: Path
) -> None:
    merged = work.with_suffix(".merged")
    merged.mkdir(exist_ok=True)
    lower = ":".join(str(path) for path in reversed(lowers))
    steps = [
        "set -eu",
        f"mount -t overlay overlay -o 'lowerdir={lower},upperdir={upper},workdir={work}' {merged}",
        f"mount -t proc proc {merged}/proc",
        f"mount --rbind /dev {merged}/dev",
        f"mount -t tmpfs tmpfs {merged}/run",
        f"mkdir -p {merged}{_BUILD} {merged}/run/lock",
        f"mount --bind /etc/resolv.conf {merged}/etc/resolv.conf",
        # Keeps packages from starting services while they are installed.
        f"printf '#!/bin/sh\\nexit 101\\n' > {merged}/usr/sbin/policy-rc.d && chmod +x {merged}/usr/sbin/policy-rc.d",
    ]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        **{name: os.environ[name] for name in _NETWORK_ENVIRONMENT if name in os.environ},
    }
    if _CA_BUNDLE.exists():
        steps.append(f"cp {_CA_BUNDLE} {merged}{_BUILD}/ca.crt")
        environment.update(dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), f"{_BUILD}/ca.crt"))
    for name, path in binds.items():
        steps.append(f"mkdir -p {merged}{_BUILD}/{name} && mount --bind -o ro {path} {merged}{_BUILD}/{name}")
    steps.append(f'chroot {merged} sh -euc "$KIGI_SCRIPT"')
    steps.append(f"rm -f {merged}/usr/sbin/policy-rc.d")
    try:
        _run(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--propagation",
                "private",
                "sh",
                "-c",
                "\n".join(steps),
            ],
            log,
            env={**environment, "KIGI_SCRIPT": f"{script}\n{_SCRUB}\n"},
        )
    finally:
        merged.rmdir()


def _run(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        result = run(command, timeout_s=_STEP_S, output=output, env=env, check=False)
    if result.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise subprocess.CalledProcessError(result.returncode, command[0], stderr=f"see {log}:\n{tail}")


def _empty(path: Path) -> None:
    for item in path.iterdir() if path.is_dir() else ():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()
