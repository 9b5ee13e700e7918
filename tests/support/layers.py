"""Layers in Kigi's form, made by qemu-img, and their S3 objects."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from kigi.api.node_cache import Purpose, WantedLayer
from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Chain, Digest, Layer, layer_file_name, object_key
from kigi.domain.names import NODE_API_VERSION
from kigi.domain.node_protocol import PROTOCOL
from localcluster.s3 import S3Server

VIRTUAL_BYTES = 64 * 2**20


def make_layer(
    directory: Path, parent: Layer | None = None, *, data: bytes = b"", offset: int = 0
) -> tuple[Layer, Path]:
    """A layer whose guest sees ``data`` at ``offset`` above its parent; the file is named by its digest."""
    raw = directory / "new.raw"
    new = directory / "new.qcow2"
    new.unlink(missing_ok=True)
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if parent is not None:
        create += ["-u", "-b", layer_file_name(parent.digest), "-F", "qcow2"]
    subprocess.run([*create, str(new), str(VIRTUAL_BYTES)], check=True, cwd=directory)
    if data:
        raw.write_bytes(data)
        write = f"write -s {raw} {offset} {len(data)}"
        subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", write, str(new)], check=True, capture_output=True, cwd=directory
        )
    content = new.read_bytes()
    digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
    layer = Layer(digest, len(content), VIRTUAL_BYTES, parent.digest if parent else None)
    path = directory / layer_file_name(digest)
    new.rename(path)
    return layer, path


def make_chain(directory: Path, length: int = 3, size_bytes: int = 2 * 2**20, seed: int = 0) -> Chain:
    """A chain of layers in ``directory``, each with ``size_bytes`` of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    chain: list[Layer] = []
    for number in range(length):
        stream = hashlib.shake_256(f"{seed}-{number}".encode()).digest(size_bytes)
        layer, _ = make_layer(directory, chain[-1] if chain else None, data=stream, offset=number * 65536)
        chain.append(layer)
    return tuple(chain)


def upload(s3: S3Server, bucket: str, directory: Path, chain: Chain) -> None:
    """Copy the layers' files into the repository (the folders of its posix backend)."""
    for layer in chain:
        target = s3.data / bucket / object_key(layer.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((directory / layer_file_name(layer.digest)).read_bytes())


def repositories(endpoint: str, bucket: str) -> Repositories:
    """Settings with one repository."""
    return Repositories(repositories={"default": Repository(endpoint=endpoint, bucket=bucket)})


def environment(s3: S3Server) -> dict[str, str]:
    """Credentials as environment variables of the daemon."""
    return {"AWS_ACCESS_KEY_ID": s3.credentials.access_key, "AWS_SECRET_ACCESS_KEY": s3.credentials.secret_key}


def wanted(chain: Chain, purpose: Purpose = "Disk") -> list[WantedLayer]:
    """The chain as a NodeCache lists it."""
    return [
        WantedLayer(
            digest=layer.digest,
            size_bytes=layer.size_bytes,
            virtual_size_bytes=layer.virtual_size_bytes,
            parent_digest=layer.parent,
            repository_name=layer.repository,
            purpose=purpose,
        )
        for layer in chain
    ]


def node_cache(name: str, **spec: Any) -> dict[str, Any]:
    """The NodeCache of a node, as the operator writes it."""
    full = {"nodeName": name, "operatorProtocol": PROTOCOL, "protocol": PROTOCOL, **spec}
    return {"apiVersion": NODE_API_VERSION, "kind": "NodeCache", "metadata": {"name": name}, "spec": full}
