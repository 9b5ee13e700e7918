"""The previous version of Kigi from the repository's history: its code, run by the same interpreter."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from localcluster.processes import free_port
from tests.support.cluster import REPOSITORY

PREVIOUS = "8ecbc83"
"""Last commit whose kinds are v1alpha1."""


@dataclass(frozen=True)
class Release:
    """A version of Kigi as a folder with its source."""

    name: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Makes ``sys.executable -m kigi...`` run this version."""
        return {"PYTHONPATH": os.pathsep.join(str(self.folder / part) for part in ("operator", "node-cache-daemon"))}


PRESENT = Release("present", REPOSITORY)


def has_previous() -> bool:
    """Whether the history has it: an archive of the source or a shallow clone does not."""
    command = ["git", "-C", str(REPOSITORY), "cat-file", "-e", f"{PREVIOUS}^{{commit}}"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def previous(folder: Path) -> Release:
    """The previous version, in ``folder``."""
    parts = ["operator", "node-cache-daemon", "crds", "manifests"]
    command = ["git", "-C", str(REPOSITORY), "archive", PREVIOUS, *parts]
    done = subprocess.run(command, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Release("previous", folder)


class OperatorProcess:
    """An operator of one version, with leader election."""

    def __init__(self, release: Release, kubeconfig: Path, log: Path) -> None:
        self.release, self.log = release, log
        env = {
            **os.environ,
            **release.environment,
            "KUBECONFIG": str(kubeconfig),
            "KIGI_HTTP_HOST": "127.0.0.1",
            "KIGI_HTTP_PORT": str(free_port()),
            "KIGI_LEASE_SECONDS": "6",
            "KIGI_RESYNC_SECONDS": "20",
        }
        with log.open("ab") as out:
            self._process = subprocess.Popen([sys.executable, "-m", "kigi.main"], env=env, stdout=out, stderr=out)

    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End it like a Deployment that is scaled to 0."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it without its lease."""
        self._process.kill()
        self._process.wait()
