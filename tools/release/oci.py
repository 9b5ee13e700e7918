"""OCI archives with one image for several architectures.

Source: OCI Image Format Specification 1.1, image-layout.md, image-index.md, manifest.md and config.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.release.tree import Blob

_MEDIA = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True)
class Variant:
    """The image of one architecture: its layers, bottom first."""

    architecture: str
    layers: Sequence[Blob]


@dataclass(frozen=True, slots=True)
class Run:
    """How a container of the image starts."""

    entrypoint: Sequence[str]
    user: str
    env: Mapping[str, str]
    labels: Mapping[str, str]


def write_archive(target: Path, reference: str, variants: Sequence[Variant], run: Run, created: str) -> str:
    """Write the archive; the digest of the image's index. ``reference``: tag; ``created``: RFC 3339."""
    blobs: dict[str, bytes] = {}

    def add(data: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"digest": digest, "size": len(data)}

    manifests = []
    for variant in variants:
        for layer in variant.layers:
            blobs[layer.digest] = layer.data
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": {"mediaType": f"{_MEDIA}.config.v1+json", **add(_json(_config(variant, run, created)))},
            "layers": [
                {"mediaType": f"{_MEDIA}.layer.v1.tar+gzip", "digest": layer.digest, "size": len(layer.data)}
                for layer in variant.layers
            ],
            "annotations": dict(run.labels),
        }
        platform = {"architecture": variant.architecture, "os": "linux"}
        manifests.append({"mediaType": manifest["mediaType"], **add(_json(manifest)), "platform": platform})
    index_type = f"{_MEDIA}.index.v1+json"
    index = add(
        _json({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests, "annotations": dict(run.labels)})
    )
    named = {"mediaType": index_type, **index, "annotations": {"org.opencontainers.image.ref.name": reference}}
    files = {f"blobs/sha256/{digest.removeprefix('sha256:')}": data for digest, data in blobs.items()}
    files["index.json"] = _json({"schemaVersion": 2, "mediaType": index_type, "manifests": [named]})
    files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    _write(target, files)
    return str(index["digest"])


def _config(variant: Variant, run: Run, created: str) -> dict[str, Any]:
    return {
        "created": created,
        "architecture": variant.architecture,
        "os": "linux",
        "config": {
            "User": run.user,
            "Entrypoint": list(run.entrypoint),
            "Env": [f"{name}={value}" for name, value in sorted(run.env.items())],
            "Labels": dict(run.labels),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in variant.layers]},
        "history": [{"created": created, "created_by": "make release"} for _ in variant.layers],
    }


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    part = target.with_suffix(".part")
    with tarfile.open(part, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    part.replace(target)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
