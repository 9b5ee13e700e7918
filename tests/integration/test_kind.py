"""The demo on kind, as far as it can be tested without Docker.

A real API server accepts the settings, and the script calls docker, kind and kubectl as expected.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from localcluster.kubevirt import DEFAULT_RELEASE, RELEASES, kubevirt_object
from tests.support.cluster import ensure_namespace
from tests.support.kubevirt_crds import install_kubevirt_crds

KIND = Path(__file__).parents[2] / "localcluster" / "kind"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Stand-ins for docker, kind and kubectl that record their calls; docker inspect finds a container that was run."""
    folder = tmp_path / "bin"
    folder.mkdir()
    state = tmp_path / "ran"
    docker = f"""case $1 in
run) touch {state} ;;
inspect) [ -e {state} ] || exit 1; case $2 in --format) echo 172.18.0.9 ;; esac ;;
esac"""
    kind = f"""case "$1 $2" in
"get clusters") cat {tmp_path}/clusters 2>/dev/null || true ;;
"create cluster") echo kigi >{tmp_path}/clusters ;;
esac"""
    for name, body in {"docker": docker, "kind": kind, "kubectl": "true"}.items():
        program = folder / name
        program.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "{name} $*" >>{tmp_path}/calls\n{body}\n')
        program.chmod(0o755)
    return folder


def call(programs: Path, verb: str) -> tuple[str, list[str]]:
    """Output of the script for a verb, and the commands that it called."""
    calls = programs.parent / "calls"
    calls.write_text("")
    env = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(programs.parent)}
    done = subprocess.run(["bash", str(KIND / "cluster.sh"), verb], env=env, capture_output=True, text=True, check=True)
    return done.stdout, calls.read_text().splitlines()


def test_up_creates_a_cluster_only_once_and_loads_the_image_each_time(programs: Path) -> None:
    _, first = call(programs, "up")
    _, second = call(programs, "up")
    created = [line for line in first if line.startswith("kind create cluster")]
    assert len(created) == 1
    assert str(KIND / "kind.yaml") in created[0]
    assert sum(line.startswith("docker run") for line in first) == 1
    assert not [line for line in second if line.startswith(("kind create", "docker run"))]
    for calls in (first, second):
        assert any(line.startswith("docker build --tag kigi:dev") for line in calls)
        assert "kind load docker-image kigi:dev --name kigi" in calls
        assert any(
            "kubevirt-operator.yaml" in line and f"/v{RELEASES[DEFAULT_RELEASE].version.removeprefix('v')}/" in line
            for line in calls
        )
        assert any(line.endswith("--timeout=15m") and "Deployed" in line for line in calls)


def test_env_prints_the_demos_settings_and_down_removes_everything(programs: Path) -> None:
    call(programs, "up")
    text, _ = call(programs, "env")
    named = dict(line.removeprefix("export ").split("=", 1) for line in text.splitlines())
    assert named["KIGI_S3_ENDPOINT"] == "http://172.18.0.9:9000"
    assert {"KUBECONFIG", "KIGI_S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= named.keys()
    _, calls = call(programs, "down")
    assert any(line.startswith("kind delete cluster --name kigi") for line in calls)
    assert "docker rm --force kigi-s3" in calls
    assert not (programs.parent / ".local/state/kigi-kind").exists()


def test_kubevirt_has_the_settings_of_the_local_cluster() -> None:
    def settings(body: dict[str, Any]) -> dict[str, Any]:
        configuration: dict[str, Any] = body["spec"]["configuration"]
        return configuration["developerConfiguration"]

    kind, local = (
        settings(yaml.safe_load((KIND / "kubevirt.yaml").read_text())),
        settings(kubevirt_object(RELEASES[DEFAULT_RELEASE])),
    )
    assert kind["useEmulation"] is local["useEmulation"] is True
    assert set(kind["featureGates"]) >= {"Sidecar"} <= set(local["featureGates"])


def test_a_real_server_accepts_the_kubevirt_object(crds: ControlPlane) -> None:
    install_kubevirt_crds(crds)
    ensure_namespace(crds, "kubevirt")
    crds.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(KIND / "kubevirt.yaml"))


def test_the_nodes_cache_is_a_directory_of_the_machine() -> None:
    """Hard links and bind mounts of layers do not work on the overlay file system of kind's nodes."""
    config = yaml.safe_load((KIND / "kind.yaml").read_text())
    for node in config["nodes"]:
        assert "/var/lib/kigi" in {mount["containerPath"] for mount in node["extraMounts"]}
        patches = [yaml.safe_load(text) for text in node["kubeadmConfigPatches"]]
        assert all(patch["kind"] == "KubeletConfiguration" for patch in patches)
