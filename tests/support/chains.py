"""Chains of real layers with their files, and as volume attributes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.layers import Chain, Layer, digest_hex
from tests.support.layers import make_chain


@dataclass(frozen=True)
class LayerFile:
    """A layer and its file."""

    layer: Layer
    path: Path


def build_chain(directory: Path, length: int = 3, seed: int = 0, size_bytes: int = 65536) -> list[LayerFile]:
    """Layers, root first, with their files in ``directory``."""
    chain = make_chain(directory, length, size_bytes, seed)
    return [LayerFile(layer, directory / f"{digest_hex(layer.digest)}.qcow2") for layer in chain]


def layers_of(files: list[LayerFile]) -> Chain:
    """The chain without its files."""
    return tuple(file.layer for file in files)


def chain_attribute(chain: Chain) -> str:
    """The volume attribute ``chain`` as the operator writes it."""
    return json.dumps(
        [
            {
                "digest": layer.digest,
                "sizeBytes": layer.size_bytes,
                "virtualSizeBytes": layer.virtual_size_bytes,
                "repository": layer.repository,
            }
            for layer in chain
        ]
    )


def run(*command: str, cwd: Path | None = None) -> str:
    """Output of a command that must succeed."""
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def guest_view(directory: Path) -> Path:
    """The disk of an overlay as a VM has it, beside its layers: for qemu programs while no pod has mounted it."""
    view = directory.parents[2] / "views" / directory.name
    view.mkdir(parents=True, exist_ok=True)
    for name, target in (("disk.img", directory / "mount" / "disk.img"), ("chain", directory / "chain")):
        if not (view / name).is_symlink():
            (view / name).symlink_to(target)
    return view / "disk.img"
