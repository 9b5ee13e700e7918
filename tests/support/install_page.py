"""The commands of the pages on installation, in their order, and what the pages ask a reader to write into files."""

from __future__ import annotations

from pathlib import Path

import yaml

from localcluster.s3 import Credentials
from tests.support.documented import ROOT, commands, section

IMAGE = "registry.example/kigi:0.1.0"
SYSTEM = "kigi-system"
PREPARATION = (f"docker build -t {IMAGE} .", f"docker push {IMAGE}", "make chart")
"""Before either way, until an image and a chart are published."""


def five_commands() -> list[str]:
    """From nothing to ten running VMs."""
    return commands(section("README.md", "### In five commands"))


def steps() -> list[str]:
    """Step by step, with kubectl and kustomize."""
    return commands(section("README.md", "### Step by step"))


def uninstallation() -> list[str]:
    """All commands of the order on the page, for kustomize and for Helm."""
    text = (ROOT / "docs/uninstall.md").read_text(encoding="utf-8")
    return commands(text.partition("\n## ")[0])


def write_overlay(folder: Path) -> str:
    """The overlay of the page beside ``folder/manifests``; the command that applies it."""
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    block = text.partition("```yaml\n")[2].partition("```")[0]
    place, _, command = block.partition("\n")[0].removeprefix("# ").partition("; ")
    (folder / place).parent.mkdir()
    (folder / place).write_text(block, encoding="utf-8")
    return command


def overlay_namespace() -> str:
    """Namespace of that overlay."""
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    block = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    return str(block["namespace"])


def adapt_repository(
    path: Path, endpoint: str, bucket: str, reader: Credentials, writer: Credentials, namespace: str = SYSTEM
) -> None:
    """What the page asks for: endpoint, bucket and keys in ``repositories.yaml``; for another namespace, that one."""
    text = path.read_text(encoding="utf-8")
    for before, after in (
        ("https://s3.example.org", endpoint),
        ("bucket: kigi\n", f"bucket: {bucket}\n"),
        ("accessKeyId: reader", f"accessKeyId: {reader.access_key}"),
        ("accessKeyId: writer", f"accessKeyId: {writer.access_key}"),
        ("secretAccessKey: change-me", f"secretAccessKey: {reader.secret_key}"),
        ("secretAccessKey: change-me", f"secretAccessKey: {writer.secret_key}"),
    ):
        assert before in text
        text = text.replace(before, after, 1)
    path.write_text(text.replace(f"namespace: {SYSTEM}", f"namespace: {namespace}"), encoding="utf-8")
