"""Runs ``kigi`` as a subprocess against the servers of the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kigi.domain.layers import Digest, object_key
from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.chains import run
from tests.support.layers import environment


@dataclass(frozen=True)
class Site:
    """A namespace of a cluster, a bucket, and a folder for layers."""

    plane: ControlPlane
    namespace: str
    s3: S3Server
    bucket: str
    folder: Path
    """The command keeps its layers in it, and tests their files."""

    def kigi(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs the command; the completed process. ``variables`` replace those of the environment; empty: unset."""
        env = {
            **os.environ,
            **environment(self.s3),
            "KIGI_S3_ENDPOINT": self.s3.endpoint,
            "KIGI_S3_BUCKET": self.bucket,
            "KUBECONFIG": str(self.plane.kubeconfig),
            "KIGI_CACHE": str(self.folder),
            "COLUMNS": "200",
            **variables,
        }
        env = {name: value for name, value in env.items() if value}
        command = [sys.executable, "-m", "kigi.cli.main", *map(str, arguments)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Applies objects to the namespace."""
        text = yaml.safe_dump_all([dict(item) for item in objects])
        self.plane.kubectl("apply", "--server-side", "-n", self.namespace, "-f", "-", input_text=text)

    def repository(self, name: str, **spec: Any) -> None:
        """Applies a LayerRepository of the site's bucket for all namespaces; it is no default."""
        described = {
            "s3": {"endpoint": self.s3.endpoint, "bucket": self.bucket},
            "credentials": {"readerSecretRef": {"name": "reader"}},
            "namespaceSelector": {},
            **spec,
        }
        self.apply(
            {"apiVersion": API_VERSION, "kind": "LayerRepository", "metadata": {"name": name}, "spec": described}
        )

    def succeed(self, *arguments: str | Path) -> str:
        """Runs the command; its output. AssertionError with its messages if it fails."""
        done = self.kigi(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fail(self, *arguments: str | Path) -> str:
        """Runs the command; its messages. AssertionError unless it fails, and without a traceback.

        Exit codes: 1, 2 for the value of an option, 4 for a silent server.
        """
        done = self.kigi(*arguments)
        assert done.returncode in (1, 2, 4), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Reads an object."""
        found: dict[str, Any] = json.loads(self.plane.kubectl("get", kind, name, "-n", self.namespace, "-o", "json"))
        return found

    def names(self, kind: str) -> set[str]:
        """Names of the namespace's objects of a kind."""
        items = json.loads(self.plane.kubectl("get", kind, "-n", self.namespace, "-o", "json"))["items"]
        return {item["metadata"]["name"] for item in items}

    def stored(self, digest: str) -> Path:
        """File in which the repository stores a layer."""
        return self.s3.data / self.bucket / object_key(Digest(digest))

    def grow(self, *names: str) -> None:
        """Publishes and applies a chain of images; each writes 64 KiB that no other does, and 4 KiB that all write."""
        images = self.folder / "images"
        images.mkdir(exist_ok=True)
        parent = None
        for number, name in enumerate(names):
            below = ["-b", f"{parent}.qcow2", "-F", "qcow2"] if parent else []
            run("qemu-img", "create", "-q", "-f", "qcow2", *below, str(images / f"{name}.qcow2"), "8M")
            own = self.folder / "own"
            own.write_bytes(f"{self.namespace} {name}".encode().ljust(65536, b"."))
            writes = [f"write -s {own} {number}M 64k", f"write -P {number + 101} 7M 4k"]
            run("qemu-io", "-f", "qcow2", *(f"-c{write}" for write in writes), str(images / f"{name}.qcow2"))
            parent = name
        described = [
            {"name": name, "parent": names[n - 1] if n else None, "file": f"{name}.qcow2"}
            for n, name in enumerate(names)
        ]
        (images / "manifest.json").write_text(json.dumps({"images": described}))
        self.succeed("publish-tree", images, "--apply", "-n", self.namespace)
