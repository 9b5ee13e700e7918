"""A real S3 server, versitygw over a directory, for the repository of layers.

Seen with versitygw v1.8.0: PutObject and CompleteMultipartUpload honour ``If-None-Match: *`` (412 when the key
exists), ranged GET answers 206, ListMultipartUploads and ListParts serve resumed uploads.
"""

from __future__ import annotations

import http.client
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from localcluster.build import binary
from localcluster.processes import Processes, free_port, is_listening


@dataclass(frozen=True, slots=True)
class Credentials:
    """An S3 access key and its secret."""

    access_key: str
    secret_key: str


ROOT = Credentials("kigi-publisher", "kigi-publisher-secret")
READER = Credentials("kigi-reader", "kigi-reader-secret")
"""May read what a bucket's policy lets it read, and nothing else."""


class S3Server:
    """versitygw below ``directory``; buckets are the folders of ``directory/data``. A context manager for tests."""

    def __init__(self, directory: Path, address: str = "127.0.0.1", port: int = 0, *, detached: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.address = address
        self.port = port or self._earlier_port()
        self.processes = Processes(directory, detached=detached)
        self.credentials = ROOT

    @property
    def endpoint(self) -> str:
        """URL of the server."""
        return f"http://{self.address}:{self.port}"

    @property
    def data(self) -> Path:
        """Folder with one folder per bucket, the objects as files in it."""
        return self.directory / "data"

    def start(self) -> Self:
        """Start it; returns when it listens. Raises StartFailed."""
        for folder in (self.data, self.directory / "iam", self.directory / "meta"):
            folder.mkdir(exist_ok=True)
        if not self.processes.is_running("versitygw"):
            command: list[str | Path] = [
                binary("versitygw"),
                f"--port={self.address}:{self.port}",
                f"--access={ROOT.access_key}",
                f"--secret={ROOT.secret_key}",
                f"--iam-dir={self.directory / 'iam'}",
                "--quiet",
                "posix",
                f"--sidecar={self.directory / 'meta'}",
                str(self.data),
            ]
            self.processes.start("versitygw", command)
        self.processes.wait_until("versitygw", lambda: is_listening(self.address, self.port))
        return self

    def stop(self) -> None:
        """Stop it; the buckets stay."""
        self.processes.stop("versitygw")

    def delete(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.delete()

    def create_bucket(self, name: str) -> str:
        """Make a bucket (a folder, as the posix backend has it) and give its name back."""
        (self.data / name).mkdir(parents=True, exist_ok=True)
        return name

    def is_healthy(self) -> bool:
        """It answers HTTP."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status in (200, 403)
        except OSError:
            return False
        finally:
            connection.close()

    def _earlier_port(self) -> int:
        path = self.directory / "versitygw.port"
        if not path.exists():
            path.write_text(str(free_port(self.address)))
        return int(path.read_text())
