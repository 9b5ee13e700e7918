"""Daemons of the previous version and of this one on the same overlay, as processes with real mounts. Needs root.

No API server answers: VMs start and stop all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from kigi.domain.layers import Chain
from localcluster.s3 import S3Server
from tests.support.chains import build_chain, layers_of
from tests.support.daemons import Node
from tests.support.kubelets import GUEST_OFFSET, content_of
from tests.support.layers import environment, upload
from tests.support.releases import PRESENT, PREVIOUS, Release, has_previous, previous

pytestmark = pytest.mark.skipif(not has_previous(), reason=f"the history of this checkout does not have {PREVIOUS}")
HANDLE = "kigi.range.web.0.dns.r1.0a1b2c3d"
CONTENT = b"guest" * 100
NOWHERE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "a",
    "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "a", "user": {}}],
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return previous(tmp_path_factory.mktemp("previous"))


@pytest.fixture
def chain(tmp_path: Path, s3: S3Server, bucket: str) -> Chain:
    chain = layers_of(build_chain(tmp_path / "source"))
    upload(s3, bucket, tmp_path / "source", chain)
    return chain


@pytest.fixture
def node(tmp_path: Path, s3: S3Server, bucket: str) -> Iterator[Node]:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(NOWHERE))
    repository = {"KIGI_S3_ENDPOINT": s3.endpoint, "KIGI_S3_BUCKET": bucket}
    made = Node(tmp_path / "node", "node", {**environment(s3), **repository, "KUBECONFIG": str(kubeconfig)})
    yield made
    made.close()


def replace(node: Node, release: Release, **env: str) -> None:
    """The daemon of another version takes over."""
    node.kill()
    node.start(**release.environment, **env).wait_ready()


def files(node: Node) -> list[str]:
    return sorted(os.listdir(node.root / "volumes" / HANDLE))


def seen(node: Node, pod: str) -> bytes:
    """What the guest in this pod finds."""
    content = content_of(node.seen(node.target(pod)) / "disk.img")
    assert content is not None
    return content[: len(CONTENT)]


def write(node: Node, pod: str) -> None:
    with (node.seen(node.target(pod)) / "disk.img").open("r+b") as disk:
        disk.seek(GUEST_OFFSET)
        disk.write(CONTENT)


def test_an_overlay_outlives_the_upgrade_and_the_way_back(node: Node, chain: Chain, old: Release) -> None:
    replace(node, old)
    node.publish(HANDLE, chain, "old")
    write(node, "old")
    mounts = node.mounts()
    replace(node, PRESENT)
    node.publish(HANDLE, chain, "old")
    assert (node.mounts(), files(node)) == (mounts, ["chain", "disk.img"]), "its VM runs on"
    node.unpublish(HANDLE, "old")
    node.publish(HANDLE, chain, "present")
    assert (seen(node, "present"), files(node)) == (CONTENT, ["chain", "mount"])

    replace(node, PRESENT, KIGI_OVERLAY_FORM="v1alpha1")
    assert files(node) == ["chain", "mount"], "its VM runs"
    node.unpublish(HANDLE, "present")
    assert files(node) == ["chain", "disk.img"]
    with pytest.raises(grpc.RpcError) as refused:
        node.publish(HANDLE, chain, "present")
    assert "KIGI_OVERLAY_FORM" in refused.value.details()
    replace(node, old)
    node.publish(HANDLE, chain, "back")
    assert (seen(node, "back"), files(node)) == (CONTENT, ["chain", "disk.img"])
    node.unpublish(HANDLE, "back")
    replace(node, PRESENT)
    node.publish(HANDLE, chain, "again")
    assert seen(node, "again") == CONTENT


def test_the_previous_daemon_refuses_an_overlay_of_the_present_form_and_damages_nothing(
    node: Node, chain: Chain, old: Release
) -> None:
    replace(node, PRESENT)
    node.publish(HANDLE, chain, "present")
    write(node, "present")
    replace(node, old)
    for pod in ("present", "old"):
        with pytest.raises(grpc.RpcError) as refused:
            node.publish(HANDLE, chain, pod)
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        node.unpublish(HANDLE, "present")
    replace(node, PRESENT)
    node.publish(HANDLE, chain, "present")
    assert seen(node, "present") == CONTENT
