"""The commands of docs/class.md, one after the other, with a running operator; VMs and nodes are simulated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import POLICY, SERVICE_ACCOUNT
from kigi.domain import names
from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually
from tests.support.deployments import apply, deployment, get_instances, trees, wait_gone, wait_ready
from tests.support.documented import ROOT
from tests.support.operator_run import OperatorRun

PAGE = ROOT / "docs/class.md"
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> str:
    """The ``sh`` blocks as one script, with a machine of the test's states."""
    return "\n".join(_BLOCK.findall(PAGE.read_text(encoding="utf-8"))).replace("mail1", "m1")


def prepare(folder: Path, plane: ControlPlane, ns: str) -> dict[str, str]:
    """A folder with kubectl, kigi and a kubeconfig of this namespace; the environment of a reader."""
    config = yaml.safe_load(plane.kubeconfig.read_text())
    for context in config["contexts"]:
        context["context"]["namespace"] = ns
    for cluster in config["clusters"]:
        if "certificate-authority" in cluster["cluster"]:
            shutil.copy(cluster["cluster"]["certificate-authority"], folder / "ca")
    (folder / ".kube").mkdir()
    (folder / ".kube/config").write_text(yaml.safe_dump(config))
    (folder / "bin").mkdir()
    (folder / "bin/kubectl").symlink_to(binary("kubectl"))
    (folder / "bin/kigi").write_text(f'#!/bin/sh\nexec {sys.executable} -m kigi.cli.main "$@"\n')
    (folder / "bin/kigi").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KIGI_", "KUBE"))}
    path = f"{folder}/bin:/usr/bin:/bin"
    return {**kept, "PATH": path, "HOME": str(folder), "PYTHONPATH": str(ROOT / "operator"), "COLUMNS": "160"}


@pytest.fixture
def policies(plane: ControlPlane, ns: str) -> Iterator[None]:
    """Policies that other tests of this API server are without: a request may name another person there."""
    files = [str(ROOT / f"manifests/rbac/{name}.yaml") for name in ("access", "reset-requests")]
    for file in files:
        plane.kubectl("apply", "--server-side", "-f", file)
    yield
    for file in files:
        plane.kubectl("delete", "-f", file)
    spec = {"deploymentRef": {"name": "class"}, "requestedBy": "alice"}
    body = {"apiVersion": names.API_VERSION, "kind": "SystemReset", "metadata": {"name": "probe"}, "spec": spec}

    def is_taken() -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            plane.kubectl("create", "--dry-run=server", "-n", ns, "-f", "-", input_text=json.dumps(body))
            return True
        return False

    eventually(is_taken, 60, "the API server applies the deleted policy no more")


@pytest.mark.usefixtures("policies")
async def test_the_page_of_a_class_can_be_followed(
    plane: ControlPlane, operator_kubeconfig: str, actors: Actors, kube: KubeClient, ns: str, tmp_path: Path
) -> None:
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/rbac/users.yaml"))
    env = prepare(tmp_path, plane, ns)
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *trees(2), deployment(replicas=2, state="infected"))
        await wait_ready(kube, ns)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euxc", commands()),
            cwd=tmp_path,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out = (await process.communicate())[0].decode()
        assert process.returncode == 0, out
        assert "second half" in out, "the history has the reason of the reset"
        instances = await get_instances(kube, ns)
        assert {name: one["status"]["systemName"] for name, one in instances.items()} == {
            "1": "cleaned",
            "2": "infected",
        }
        assert {m["state"] for one in instances.values() for m in one["status"]["machines"]} == {"Stopped"}
        team = f"system:serviceaccount:{ns}:kigi-access-class-1"
        assert instances["1"]["status"]["history"][-1]["requestedBy"] == team
        accounts = [body["metadata"]["name"] async for body in kube.list_all(SERVICE_ACCOUNT, ns)]
        assert accounts == ["default"], "all access is revoked"
        policies = {body["metadata"]["name"] async for body in kube.list_all(POLICY, ns)}
        assert {"class-1", "class-2"} <= policies
        await wait_gone(plane, kube, ns)
    plane.kubectl("delete", "clusterrolebinding", "mia-plans")
