"""The CSI project's own conformance test against the running daemon.

Kigi is a node plugin: volumes are made by the operator as static PersistentVolumes, not by CreateVolume. So the cases
of the controller services do not apply, and ``provisioner`` acts as the operator where a case needs a volume.
"""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.chains import build_chain, chain_attribute, layers_of
from tests.support.daemons import Node, daemon_env
from tests.support.layers import upload
from tests.support.provisioner import provisioner

NOT_OFFERED = {
    "NodeStageVolume": "a disk needs no step before it is mounted for its one pod",
    "NodeUnstageVolume": "the same",
    "NodeExpandVolume": "a disk has the size of its image",
    "single node multi writer": "one VM writes to a disk",
    "NodeGetVolumeHealth": "newer than the CSI version that the driver speaks; damage is an event and a condition",
    "NodeGetStorageHealth": "the same",
}
"""Optional capabilities that the driver does not advertise, and why."""


@pytest.fixture
def sanity(
    tmp_path: Path, crds: ControlPlane, s3: S3Server, bucket: str
) -> Iterator[Callable[[str, bool], dict[str, str]]]:
    """Runs the cases that match a pattern, with or without volumes; name -> passed, or why it was skipped."""
    source = build_chain(tmp_path / "source")
    upload(s3, bucket, tmp_path / "source", layers_of(source))
    chain = chain_attribute(layers_of(source))
    proxy = tmp_path / "proxy.sock"
    with (
        Node(tmp_path / "node", "sanity", daemon_env(crds.kubeconfig, s3, bucket)) as node,
        provisioner(proxy, chain, node.socket),
    ):

        def run(focus: str, volumes: bool) -> dict[str, str]:
            report = tmp_path / "report.xml"
            result = node.run(
                str(binary("csi-sanity")),
                f"--csi.endpoint=unix:{proxy if volumes else node.socket}",
                f"--csi.mountdir={tmp_path / 'mount'}",
                f"--csi.stagingdir={tmp_path / 'staging'}",
                f"--ginkgo.focus={focus}",
                "--ginkgo.no-color",
                f"--ginkgo.junit-report={report}",
            )
            assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
            return _cases(report)

        yield run
        assert [m for m in node.mounts() if "sanity" in m.root] == []


def _cases(report: Path) -> dict[str, str]:
    cases: dict[str, str] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        why = skipped.get("message", "").removeprefix("skipped").strip(" -") if skipped is not None else ""
        name = case.get("name", "").removeprefix("[It] ")
        if name.startswith(("Identity Service", "Node Service")) and case.get("status") in ("passed", "skipped"):
            cases[name] = "passed" if case.get("status") == "passed" else why or "not asked for"
    return cases


def test_every_case_of_identity_and_node_service_passes(sanity: Callable[[str, bool], dict[str, str]]) -> None:
    cases = sanity("(Identity|Node) Service", True)
    passed = sorted(name for name, result in cases.items() if result == "passed")
    assert len(passed) == 17, passed
    assert {"Node Service should work", "Node Service should be idempotent"} < set(passed)
    skipped = {name: why for name, why in cases.items() if why != "passed"}
    unexplained = {name for name in skipped if not any(part in name for part in NOT_OFFERED)}
    assert (len(skipped), unexplained) == (13, set())


def test_the_daemon_itself_offers_no_controller(sanity: Callable[[str, bool], dict[str, str]]) -> None:
    cases = sanity("Identity Service", False)
    assert [result for result in cases.values() if result == "passed"] == ["passed"] * 3


def test_csi_sanity_fails_when_the_driver_does(tmp_path: Path) -> None:
    """The test can fail: no driver, no pass."""
    result = subprocess.run(
        [
            binary("csi-sanity"),
            f"--csi.endpoint=unix:{tmp_path / 'none.sock'}",
            f"--csi.mountdir={tmp_path / 'm'}",
            f"--csi.stagingdir={tmp_path / 's'}",
            "--ginkgo.focus=GetPluginInfo",
            "--ginkgo.timeout=5s",
        ],
        capture_output=True,
        timeout=90,
    )
    assert result.returncode != 0
