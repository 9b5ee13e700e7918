"""The daemon's manifests: the API server takes them, and the daemon can read its settings in them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.aio.config.incluster_config import SERVICE_CERT_FILENAME, SERVICE_TOKEN_FILENAME

from kigi.adapters.environment import load_settings
from kigi.domain.names import CSI_DRIVER
from kigi.planning.repository_files import DAEMON_SECRET
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
    env = {
        variable["name"]: variable.get("value", "10.0.0.7,fd00::7" if variable["name"] == "POD_IPS" else "node-a")
        for variable in container["env"]
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(DaemonSettings)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    hosts = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in pod["volumes"]}
    places = {mount["mountPath"]: hosts[mount["name"]] for mount in container["volumeMounts"]}
    assert str(settings.root) in mounted
    kubelet = Path("/var/lib/kubelet")
    assert settings.csi_socket == settings.csi_endpoint, "both see the same path"
    assert settings.registration_dir is not None
    assert all(kubelet in Path(path).parents for path in (settings.csi_socket, settings.registration_dir))
    assert settings.repositories is not None
    assert str(settings.repositories) in mounted
    assert settings.http_address.port == container["ports"][0]["containerPort"]
    assert places["/var/lib/kubelet"] == "/var/lib/kubelet"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert container["command"][0] in scripts


def test_each_container_mounts_the_secret_that_the_operator_renders_and_no_other(pod: dict[str, Any]) -> None:
    volumes = {volume["name"]: volume.get("secret") for volume in pod["volumes"]}
    secret = DAEMON_SECRET
    for container in pod["containers"]:
        env = {variable["name"]: variable.get("value") for variable in container["env"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert [found["secretName"] for found in mounted.values() if found] == [secret]
        assert mounted[str(env["KIGI_REPOSITORIES"])] == {"secretName": secret, "defaultMode": 256, "optional": True}
    made = list(yaml.safe_load_all((DAEMON / "secrets.yaml").read_text()))
    assert [secret["metadata"]["name"] for secret in made] == [DAEMON_SECRET]
    assert not any({"data", "stringData"} & secret.keys() for secret in made), "applying them again erases nothing"


def test_only_the_daemon_has_a_token_of_the_api_server(pod: dict[str, Any]) -> None:
    """The capture publisher reads images that tenants wrote: what takes it over finds no token there."""
    assert pod["automountServiceAccountToken"] is False
    sources = {volume["name"]: volume.get("projected", {}).get("sources", []) for volume in pod["volumes"]}
    daemon, publisher = (
        [
            mount
            for mount in container["volumeMounts"]
            if any("serviceAccountToken" in s for s in sources[mount["name"]])
        ]
        for container in pod["containers"]
    )
    assert [mount["mountPath"] for mount in daemon] == [
        str(Path(SERVICE_TOKEN_FILENAME).parent),
        "/var/run/secrets/kigi-peer",
    ]
    assert all(mount["readOnly"] for mount in daemon)
    assert publisher == []
    (api,) = (found for found in sources["api-token"] if "serviceAccountToken" in found)
    assert api["serviceAccountToken"]["path"] == Path(SERVICE_TOKEN_FILENAME).name
    (ca,) = (found for found in sources["api-token"] if "configMap" in found)
    assert ca["configMap"]["items"] == [{"key": "ca.crt", "path": Path(SERVICE_CERT_FILENAME).name}]


def test_the_example_has_the_secrets_that_it_names() -> None:
    repository, *secrets = yaml.safe_load_all((ROOT / "manifests/examples/repositories.yaml").read_text())
    named = repository["spec"]["credentials"]
    assert [secret["metadata"]["name"] for secret in secrets] == [
        named["readerSecretRef"]["name"],
        named["writerSecretRef"]["name"],
    ]
    assert all(set(secret["stringData"]) == {"accessKeyId", "secretAccessKey"} for secret in secrets)
