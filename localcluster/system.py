"""Debian packages that the cluster needs on the machine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

from localcluster.bounded import DOWNLOAD_S, QUICK_S, run


class PackagesMissing(RuntimeError):
    """Debian packages are missing and could not be installed; the message lists them."""


_INSTALLING = threading.Lock()
"""`apt-get update` does not wait for another one."""


def missing_packages(packages: Sequence[str]) -> list[str]:
    """The packages that are not installed, according to dpkg."""
    form = "--showformat=${binary:Package} ${db:Status-Status}\n"
    listing = run(["dpkg-query", "--show", form, *packages], timeout_s=QUICK_S, check=False)
    installed = {
        line.split()[0].split(":")[0] for line in listing.stdout.splitlines() if line.split()[1:] == ["installed"]
    }
    return [package for package in packages if package not in installed]


def ensure_apt_packages(packages: Sequence[str]) -> None:
    """Install missing packages. Raises PackagesMissing if this process is not root or apt-get fails. Thread-safe."""
    with _INSTALLING:
        _install(packages)


def _install(packages: Sequence[str]) -> None:
    missing = missing_packages(packages)
    if not missing:
        return
    if os.geteuid() != 0:
        raise PackagesMissing(f"install these Debian packages first: {' '.join(missing)}")
    print(f"installing Debian packages: {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # A fresh machine may still be installing its own upgrades.
    lock_timeout = ("-o", "DPkg::Lock::Timeout=300")
    install = ["apt-get", "install", *lock_timeout, "--quiet=2", "--yes", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", *lock_timeout, "--quiet=2"], install):
        done = run(command, timeout_s=DOWNLOAD_S, env=environment, check=False)
        if done.returncode != 0:
            raise PackagesMissing(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


if __name__ == "__main__":
    ensure_apt_packages(sys.argv[1:])
