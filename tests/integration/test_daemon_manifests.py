"""The daemon's manifests: the API server takes them, and the daemon can read its settings in them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.adapters.environment import load_settings
from kigi.adapters.repositories import load_repositories
from kigi.domain.names import CSI_DRIVER
from kigi_cache.settings import DaemonSettings
from localcluster.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
DAEMON = ROOT / "manifests" / "daemon"


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((DAEMON / "daemonset.yaml").read_text())["spec"]["template"]["spec"]
    return spec


def test_the_api_server_takes_them(crds: ControlPlane) -> None:
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    for arguments in (["-k", str(DAEMON)], ["-f", str(ROOT / "manifests/examples/repositories.yaml")]):
        crds.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", *arguments)


def test_the_kubelet_never_touches_owners_and_never_attaches() -> None:
    driver = yaml.safe_load((DAEMON / "csidriver.yaml").read_text())
    assert driver["metadata"]["name"] == CSI_DRIVER
    assert (driver["spec"]["attachRequired"], driver["spec"]["fsGroupPolicy"]) == (False, "None")


def test_the_daemon_understands_its_environment_and_finds_it_mounted(
    pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    container = pod["containers"][0]
    env = {variable["name"]: variable.get("value", "node-a") for variable in container["env"]}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(DaemonSettings)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    hosts = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in pod["volumes"]}
    places = {mount["mountPath"]: hosts[mount["name"]] for mount in container["volumeMounts"]}
    assert str(settings.root) in mounted
    assert places[str(Path(settings.csi_socket).parent)] == str(Path(settings.csi_endpoint).parent)
    assert settings.registration_dir in mounted
    assert settings.repositories is not None
    assert str(settings.repositories.parent) in mounted
    assert settings.http_address.port == container["ports"][0]["containerPort"]
    assert places["/var/lib/kubelet"] == "/var/lib/kubelet"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert container["command"][0] in scripts


def test_the_example_names_the_credentials_that_are_mounted(pod: dict[str, Any], tmp_path: Path) -> None:
    config, secret, writer = yaml.safe_load_all((ROOT / "manifests/examples/repositories.yaml").read_text())
    (tmp_path / "repositories.yaml").write_text(config["data"]["repositories.yaml"])
    repository = load_repositories(tmp_path / "repositories.yaml", {}).get("default")
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert repository.credentials_dir == mounts["credentials"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["credentials"]["secret"]["secretName"] == secret["metadata"]["name"]
    assert volumes["writer"]["secret"] | {"defaultMode": 0} == {
        "secretName": writer["metadata"]["name"],
        "optional": True,
        "defaultMode": 0,
    }
    assert {m["name"]: m["mountPath"] for m in pod["containers"][1]["volumeMounts"]}["writer"] == mounts["credentials"]
    assert volumes["repositories"]["configMap"]["name"] == config["metadata"]["name"]
    assert set(secret["stringData"]) == {"accessKeyId", "secretAccessKey"}
