"""A real etcd that is restored from a backup while an operator runs: it ends, and the next one knows what is stored."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kigi.adapters.kubernetes.resources import IMAGE
from kigi.runtime.ports import ClusterRestored, Ports
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually_async, install_crds, install_repository
from tests.support.deployments import apply, image
from tests.support.operator_run import FAST, OperatorRun

NAMESPACE = "restored"


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """A control plane of its own: it loses what happened after the backup."""
    with ControlPlane(tmp_path / "plane") as server:
        install_crds(server)
        install_repository(server)
        for name in (NAMESPACE, "kigi-system"):
            server.kubectl("create", "namespace", name)
        yield server


def known(ports: Ports) -> dict[str, int]:
    """Name and version of each image that the operator knows."""
    return {record.meta.name: record.meta.version for record in ports.mirror.images}


async def stored(run: OperatorRun) -> dict[str, int]:
    """The same on the API server."""
    assert run.ports is not None
    found = run.ports.kube.list_all(IMAGE)
    return {body["metadata"]["name"]: int(body["metadata"]["resourceVersion"]) async for body in found}


@pytest.mark.timeout(300)
async def test_an_operator_ends_when_etcd_was_restored_and_the_next_one_knows_what_is_stored(
    plane: ControlPlane, tmp_path: Path
) -> None:
    settings = FAST.model_copy(update={"resync_s": 5.0, "request_timeout_s": 5.0})
    apply(plane, NAMESPACE, image("kept"), image("deleted-later"))
    async with OperatorRun(str(plane.kubeconfig), settings=settings) as run:
        assert run.ports is not None
        ports = run.ports
        await eventually_async(lambda: known(ports).keys() == {"kept", "deleted-later"}, 30, "both images are known")
        plane.stop()
        shutil.copytree(plane.directory / "etcd", tmp_path / "backup")
        plane.start()
        apply(plane, NAMESPACE, image("lost", "kept"))
        plane.kubectl("delete", "-n", NAMESPACE, "vmimagenode/deleted-later")
        plane.kubectl("annotate", "-n", NAMESPACE, "vmimagenode/kept", "changed=yes")
        await eventually_async(lambda: known(ports).keys() == {"kept", "lost"}, 60, "the later changes are known")
        plane.stop()
        shutil.rmtree(plane.directory / "etcd")
        shutil.copytree(tmp_path / "backup", plane.directory / "etcd")
        plane.start()
        task = run._task
        assert task is not None
        await eventually_async(task.done, 60, "the operator has noticed")
        assert isinstance(task.exception(), ClusterRestored)
    async with OperatorRun(str(plane.kubeconfig), settings=settings) as run:
        assert run.ports is not None
        ports = run.ports
        await eventually_async(lambda: known(ports).keys() == {"kept", "deleted-later"}, 30, "the images are back")
        expected = await stored(run)
        await eventually_async(lambda: known(ports) == expected, 30, "in their stored versions")
