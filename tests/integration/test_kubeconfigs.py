"""Every kind of kubeconfig on a real API server, through real proxies, beside kubectl with the same file."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import NAMESPACE
from kigi.errors import SpecInvalid
from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port
from tests.support.proxies import Proxy, http_proxy, socks_proxy

NAMED = "127.1"
"""Loopback under a name that no rule excludes from proxies, as ``localhost`` is; kubectl does not resolve it."""
SERVER_NAME = "kubernetes.default.svc"
"""A name in the API server's certificate."""
Parts = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""Fields of cluster, user and context."""


class Configs:
    """Writes kubeconfigs for one API server, and runs ``kigi`` and kubectl with them."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        known = yaml.safe_load(plane.kubeconfig.read_text())
        self.ca = known["clusters"][0]["cluster"]["certificate-authority-data"]
        user = known["users"][0]["user"]
        self.certificate, self.key = (
            user.get(f"client-{part}-data") or base64.b64encode(Path(user[f"client-{part}"]).read_bytes()).decode()
            for part in ("certificate", "key")
        )
        plane.kubectl("create", "serviceaccount", "reader")
        plane.kubectl(
            "create", "clusterrolebinding", "reader", "--clusterrole=cluster-admin", "--serviceaccount=default:reader"
        )
        self.token = plane.kubectl("create", "token", "reader").strip()

    @property
    def cluster(self) -> dict[str, Any]:
        return {"server": self.plane.server, "certificate-authority-data": self.ca}

    @property
    def named(self) -> dict[str, Any]:
        """The API server by a name that goes through proxies."""
        return {**self.cluster, "server": f"https://{NAMED}:{self.plane.port}", "tls-server-name": SERVER_NAME}

    @property
    def user(self) -> dict[str, Any]:
        return {"client-certificate-data": self.certificate, "client-key-data": self.key}

    def file(self, name: str, content: str, *, program: bool = False) -> str:
        """Writes a file beside the kubeconfig; its name."""
        path = self.folder / name
        path.write_text(content)
        if program:
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return name

    def write(self, cluster: dict[str, Any], user: dict[str, Any], context: dict[str, Any] | None = None) -> Path:
        path = self.folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **(context or {})}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def kigi(self, kubeconfig: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kigi.cli.main", *arguments, "--kubeconfig", str(kubeconfig)]
        return self._run(command, variables)

    def kubectl(self, kubeconfig: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run([str(binary("kubectl")), "--kubeconfig", str(kubeconfig), *arguments], variables)

    def _run(self, command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return subprocess.run(
            command,
            env={**env, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    def works(self, kubeconfig: Path, *, beside_kubectl: bool = True, **variables: str) -> None:
        """Asserts that ``kigi``, and kubectl, can use the file."""
        if beside_kubectl:
            theirs = self.kubectl(kubeconfig, "get", "systemdeployments", "-A", **variables)
            assert theirs.returncode == 0, theirs.stderr
        ours = self.kigi(kubeconfig, "status", "-A", "-o", "json", **variables)
        assert (ours.returncode, ours.stderr) == (0, ""), ours.stderr
        assert isinstance(json.loads(ours.stdout), list), "other tests may have deployments on this server"

    def fails(self, kubeconfig: Path, code: int, *words: str, **variables: str) -> None:
        """Asserts one sentence with these words."""
        done = self.kigi(kubeconfig, "status", "-A", **variables)
        assert done.returncode == code, done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        for word in words:
            assert word in done.stderr


@pytest.fixture(scope="module")
def shared(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Configs:
    return Configs(crds, tmp_path_factory.mktemp("kubeconfigs"))


@pytest.fixture
def configs(shared: Configs, tmp_path: Path) -> Configs:
    shared.folder = tmp_path
    return shared


def credential(**status: str) -> str:
    """A plugin's program that prints these credentials."""
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    return f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n"


def plugin(command: str, **more: Any) -> dict[str, Any]:
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "interactiveMode": "Never", "command": command, **more}}


def decoded(text: str) -> str:
    return base64.b64decode(text).decode()


USERS: dict[str, Callable[[Configs], dict[str, Any]]] = {
    "certificate in data": lambda c: c.user,
    "certificate in files": lambda c: {
        "client-certificate": c.file("user.crt", decoded(c.certificate)),
        "client-key": c.file("user.key", decoded(c.key)),
    },
    "token": lambda c: {"token": c.token},
    "token in a file": lambda c: {"tokenFile": c.file("token", c.token)},
    "plugin with a token": lambda c: plugin(f"./{c.file('plugin', credential(token=c.token), program=True)}"),
    "plugin with a certificate": lambda c: plugin(
        str(
            c.folder
            / c.file(
                "plugin",
                credential(clientCertificateData=decoded(c.certificate), clientKeyData=decoded(c.key)),
                program=True,
            )
        )
    ),
    "plugin with variables and cluster": lambda c: plugin(
        "sh",
        args=["-c", f'grep -q {c.plane.server} <<END && echo "$ANSWER"\n$KUBERNETES_EXEC_INFO\nEND'],
        env=[{"name": "ANSWER", "value": credential(token=c.token).split("END'\n")[1].split("\n")[0]}],
        provideClusterInfo=True,
    ),
    "impersonation": lambda c: {**c.user, "as": "someone", "as-groups": ["system:masters"]},
}


@pytest.mark.parametrize("user", USERS)
def test_every_kind_of_credentials_is_accepted(configs: Configs, user: str) -> None:
    configs.works(configs.write(configs.cluster, USERS[user](configs)))


def test_authorities_are_in_data_or_in_a_file(configs: Configs) -> None:
    name = configs.file("ca.crt", decoded(configs.ca))
    configs.works(configs.write({"server": configs.plane.server, "certificate-authority": name}, configs.user))


def test_a_server_name_replaces_that_of_the_address(configs: Configs) -> None:
    other = {**configs.cluster, "tls-server-name": "other.example"}
    configs.fails(configs.write(other, configs.user), 4, "do not vouch for the API server", "is this its cluster?")
    configs.works(configs.write({**configs.cluster, "tls-server-name": SERVER_NAME}, configs.user))


def test_a_server_may_be_trusted_without_authorities(configs: Configs) -> None:
    bare = {"server": configs.plane.server}
    configs.fails(configs.write(bare, configs.user), 4, "do not vouch for the API server")
    configs.works(configs.write({**bare, "insecure-skip-tls-verify": True}, configs.user))


def test_the_namespace_of_the_context_is_used(configs: Configs) -> None:
    kubeconfig = configs.write(configs.cluster, configs.user, {"namespace": "range"})
    done = configs.kigi(kubeconfig, "status", "office")
    assert done.returncode == 1
    assert "there is no SystemDeployment range/office" in done.stderr


def test_credentials_that_are_not_accepted_name_a_remedy(configs: Configs) -> None:
    configs.fails(configs.write(configs.cluster, {"token": "wrong"}), 1, "does not accept", "log in again")
    configs.fails(configs.write(configs.cluster, plugin("kubelogin-that-is-absent")), 1, "needs the program", "install")
    configs.fails(configs.write(configs.cluster, plugin("false")), 1, "'false' gives user 'u' no credentials", "log in")


@pytest.fixture(params=["http", "http with a password", "socks5", "socks5 with a password"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    start = http_proxy if request.param.startswith("http") else socks_proxy
    with start(tmp_path, guarded="password" in request.param) as running:
        yield running


def test_the_proxy_of_a_kubeconfig_is_used(configs: Configs, proxy: Proxy) -> None:
    kubeconfig = configs.write({**configs.cluster, "proxy-url": proxy.url()}, configs.user)
    configs.works(kubeconfig)
    before = proxy.used(configs.plane.port)
    assert before >= 2, "kubectl and kigi"
    configs.works(kubeconfig, NO_PROXY="*")
    assert proxy.used(configs.plane.port) > before, "NO_PROXY is not for the proxy of a kubeconfig"
    console = configs.kigi(kubeconfig, "console", "office", "mail1", "--instance", "0")
    assert "does not run" in console.stderr, "the API server answered"
    assert console.returncode == 1
    if proxy.guarded:
        wrong = {**configs.cluster, "proxy-url": proxy.url(password="wrong")}
        configs.fails(configs.write(wrong, configs.user), 4, f"proxy {proxy.scheme}://127.0.0.1:{proxy.port}: ")


def test_the_proxy_of_the_environment_is_used_unless_the_server_is_excluded(configs: Configs, proxy: Proxy) -> None:
    kubeconfig = configs.write(configs.named, configs.user)
    port = configs.plane.port
    configs.works(kubeconfig, beside_kubectl=False, HTTPS_PROXY=proxy.url())
    used = proxy.used(port)
    assert used >= 1
    for excluded in ("*", NAMED, f"other.example,{NAMED}:{port}"):
        configs.works(kubeconfig, beside_kubectl=False, HTTPS_PROXY=proxy.url(), NO_PROXY=excluded)
    local = configs.write(configs.cluster, configs.user)
    configs.works(local, HTTPS_PROXY=proxy.url())
    assert proxy.used(port) == used


def test_a_proxy_that_is_absent_is_named(configs: Configs) -> None:
    port = free_port()
    for scheme in ("http", "socks5"):
        lost = {**configs.cluster, "proxy-url": f"{scheme}://u:secret@127.0.0.1:{port}"}
        kubeconfig = configs.write(lost, configs.user)
        configs.fails(kubeconfig, 4, f"proxy {scheme}://127.0.0.1:{port}: ", "does not answer")
        assert "secret" not in configs.kigi(kubeconfig, "status").stderr


def test_a_proxy_behind_tls_is_refused_in_words(configs: Configs) -> None:
    secured = {**configs.cluster, "proxy-url": "https://proxy.example:3128"}
    configs.fails(configs.write(secured, configs.user), 1, "proxy-url of the kubeconfig", "http:// or socks5://")


async def test_operator_and_daemon_use_http_proxies_and_refuse_others(configs: Configs, proxy: Proxy) -> None:
    kubeconfig = configs.write({**configs.cluster, "proxy-url": proxy.url()}, configs.user)
    if proxy.scheme == "socks5":
        with pytest.raises(SpecInvalid, match="HTTP proxies only") as caught:
            await load_configuration(str(kubeconfig))
        assert "s3cret" not in str(caught.value)
        return
    async with KubeClient(await load_configuration(str(kubeconfig)), timeout_s=30) as kube:
        assert await kube.get(NAMESPACE, None, "default") is not None
    assert proxy.used(configs.plane.port) > 0
