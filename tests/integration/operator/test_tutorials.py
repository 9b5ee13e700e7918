"""The commands of both tutorials, one after the other, with a running operator; VMs and nodes are simulated.

The pages' pictures of commands are made or compared at the same places.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import DEPLOYMENT, IMAGE, SYSTEM, Resource
from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from localcluster.s3 import ROOT as OWNER
from localcluster.s3 import S3Server
from tests.support.actors import Actors
from tests.support.documented import ROOT
from tests.support.operator_run import OperatorRun
from tests.support.pictures import COLUMNS, check_or_write, draw

PAGES = ("docs/tutorials/first-image.md", "docs/tutorials/first-class.md")
PICTURES = {
    "kigi tree": "tree",
    "kigi plan shop --system shop-broken": "plan",
    "kigi status class": "status",
}
"""Commands of the pages that are drawn where they stand, with the names of their pictures."""
_BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHANGES = {
    "virt-customize -a web.qcow2 ": "qemu-io -c 'write -P 1 0 1M' web.qcow2",
    "virt-customize -a web-broken.qcow2 ": "qemu-io -c 'write -P 2 4M 64k' web-broken.qcow2",
    "kigi capture class 7": "true",  # needs a running capture publisher: tests/e2e/test_capture.py
}
"""What stands for the commands that depend on a reader's image or cluster, by their begin."""


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def script(text: str) -> str:
    """The commands of a page as one script: ``sh`` blocks as they are, and stand-ins for ``console`` blocks."""
    lines: list[str] = []
    for language, block in _BLOCK.findall(text):
        if language == "sh":
            lines.append(block)
            continue
        for shown in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            (stand_in,) = [stand_in for begin, stand_in in CHANGES.items() if shown.startswith(begin)]
            lines.append(stand_in)
    return "\n".join(lines)


class Reader:
    """A person with a folder, a kubeconfig, a bucket and the programs that the pages name."""

    def __init__(self, folder: Path, plane: ControlPlane, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        shutil.copy(plane.kubeconfig, folder / "kubeconfig")
        (folder / "bin").mkdir()
        (folder / "bin/kubectl").symlink_to(binary("kubectl"))
        (folder / "bin/kigi").write_text(f'#!/bin/sh\nexec {sys.executable} -m kigi.cli.main "$@"\n')
        (folder / "bin/kigi").chmod(0o755)
        disk = ["qemu-img", "create", "-q", "-f", "qcow2", "debian-12.qcow2", "64M"]
        subprocess.run(disk, cwd=folder, check=True)
        subprocess.run(
            ["qemu-io", "-c", "write -P 7 0 3M", "debian-12.qcow2"], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )

    async def read(self, text: str) -> str:
        """Output of all commands of a page, and its pictures."""
        out, waiting = "", ""
        for line in script(text).splitlines(keepends=True):
            waiting += line
            if name := PICTURES.get(line.strip()):
                out, waiting = out + await self.run(waiting), ""
                shown = await self.run(f"set +x; script -qec '{line.strip()}' /dev/null", TERM="xterm-256color")
                check_or_write(name, draw(name, line.strip(), shown.partition("\n")[2]))
        return out + await self.run(waiting)

    async def run(self, text: str, **variables: str) -> str:
        """Output of a script. AssertionError if one of its commands fails."""
        named = "export KIGI_S3_ENDPOINT=https://s3.example KIGI_S3_BUCKET=kigi"
        text = text.replace(named, f"export KIGI_S3_ENDPOINT={self.endpoint} KIGI_S3_BUCKET=kigi")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KIGI_"))}
        env = {
            **kept,
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.folder / "kubeconfig"),
            "AWS_ACCESS_KEY_ID": OWNER.access_key,
            "AWS_SECRET_ACCESS_KEY": OWNER.secret_key,
            "KIGI_S3_ENDPOINT": self.endpoint,
            "KIGI_S3_BUCKET": "kigi",
            "PYTHONPATH": str(ROOT / "operator"),
            "COLUMNS": str(COLUMNS),
            **variables,
        }
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-euxc",
            text,
            cwd=self.folder,
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()


@pytest.fixture
def reader(plane: ControlPlane, tmp_path: Path) -> Iterator[Reader]:
    plane.kubectl("apply", "-f", str(ROOT / "manifests/rbac/users.yaml"))
    with S3Server(tmp_path / "s3") as s3:
        s3.create_bucket("kigi")
        yield Reader(tmp_path, plane, s3.endpoint)


async def names(kube: KubeClient, resource: Resource) -> set[str]:
    return {body["metadata"]["name"] async for body in kube.list_all(resource, "lab")}


async def test_from_the_first_image_to_the_end_of_the_first_class(
    operator_kubeconfig: str, actors: Actors, kube: KubeClient, reader: Reader
) -> None:
    first, clean_up, rest = page(PAGES[0]).partition("## 6. Clean up")
    assert rest
    async with OperatorRun(operator_kubeconfig):
        out = await reader.read(first)
        assert await names(kube, IMAGE) == {"debian-12", "web", "web-broken"}
        assert "web1" in out
        out = await reader.read(page(PAGES[1]))
        assert re.search(r"^yes$", out, re.MULTILINE), out  # what the instructor may do, and what not
        assert re.search(r"^no", out, re.MULTILINE), out
        assert await names(kube, DEPLOYMENT) == {"shop"}
        await reader.run(script(clean_up + rest))
        assert not await names(kube, SYSTEM)
        assert not await names(kube, IMAGE)
    assert not [text for text in actors.violations if "-web1 " in text]  # others provoke violations
