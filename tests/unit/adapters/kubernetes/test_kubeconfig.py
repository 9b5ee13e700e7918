"""Kubeconfigs are read by the rules of kubectl, and a broken one is reported in one sentence with a remedy."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.adapters.kubernetes import endpoint as endpoint_module
from kigi.adapters.kubernetes.endpoint import Endpoint, endpoint_of
from kigi.adapters.kubernetes.kubeconfig import files_of, read_config, select
from kigi.errors import SpecInvalid


def config(**more: Any) -> dict[str, Any]:
    return {
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u", "namespace": "range"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://lab.example:6443/"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        **more,
    }


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def endpoint(path: Path, context: str | None = None) -> Endpoint:
    return endpoint_of(select(read_config([path]), context))


def user(**fields: Any) -> dict[str, Any]:
    return config(users=[{"name": "u", "user": fields}])


def cluster(**fields: Any) -> dict[str, Any]:
    return config(clusters=[{"name": "c", "cluster": {"server": "https://lab.example:6443", **fields}}])


def test_files_are_chosen_as_kubectl_does() -> None:
    assert files_of("/a", {"KUBECONFIG": "/b"}) == (Path("/a"),)
    assert files_of(None, {"KUBECONFIG": f"/b{os.pathsep}{os.pathsep}/c"}) == (Path("/b"), Path("/c"))
    assert files_of(None, {}) == (Path.home() / ".kube/config",)


def test_of_several_files_the_first_counts_and_what_is_missing_is_none(tmp_path: Path) -> None:
    first = write(tmp_path / "first", {"clusters": [{"name": "c", "cluster": {"server": "https://other"}}]})
    second = write(tmp_path / "second", config())
    found = select(read_config([tmp_path / "absent", first, second]), None)
    assert (found.namespace, found.cluster.fields["server"]) == ("range", "https://other")


def test_a_token_and_a_server(tmp_path: Path) -> None:
    found = endpoint(write(tmp_path / "k", config()))
    assert (found.server, found.token, found.ca) == ("https://lab.example:6443", "secret", None)
    assert "secret" not in repr(found)


def test_files_are_relative_to_the_kubeconfig_and_data_comes_first(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("file")
    assert endpoint(write(tmp_path / "k", cluster(**{"certificate-authority": "ca.crt"}))).ca == b"file"
    both = {"certificate-authority": "ca.crt", "certificate-authority-data": base64.b64encode(b"data").decode()}
    assert endpoint(write(tmp_path / "k", cluster(**both))).ca == b"data"
    pair = {f"client-{part}-data": base64.b64encode(part.encode()).decode() for part in ("certificate", "key")}
    assert endpoint(write(tmp_path / "k", user(**pair))).certificate == (b"certificate", b"key")


def test_other_fields_of_users_and_clusters(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-file\n")
    assert endpoint(write(tmp_path / "k", user(tokenFile="token"))).token == "of-file"
    assert endpoint(write(tmp_path / "k", user(username="a", password="b"))).password == ("a", "b")
    provider = {"auth-provider": {"name": "oidc", "config": {"id-token": "t"}}}
    assert endpoint(write(tmp_path / "k", user(**provider))).token == "t"
    someone = user(token="t", **{"as": "eve", "as-groups": ["a", "b"], "as-uid": "7"})
    assert endpoint(write(tmp_path / "k", someone)).impersonated == (
        ("Impersonate-User", "eve"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
    )
    odd = {"insecure-skip-tls-verify": True, "tls-server-name": "kubernetes", "proxy-url": "http://proxy:3128"}
    found = endpoint(write(tmp_path / "k", cluster(**odd)))
    assert (found.insecure, found.server_name, found.proxy) == (True, "kubernetes", "http://proxy:3128")


def test_a_program_gives_the_credentials(tmp_path: Path) -> None:
    program = tmp_path / "login"
    program.write_text(
        '#!/bin/sh\necho "{\\"status\\": {\\"token\\": \\"$USER_NAME\\"}}"\necho "$KUBERNETES_EXEC_INFO" > "$1"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    plan = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./login",
        "args": [str(tmp_path / "asked")],
        "env": [{"name": "USER_NAME", "value": "bob"}],
        "interactiveMode": "Never",
        "provideClusterInfo": True,
    }
    assert endpoint(write(tmp_path / "k", user(exec=plan))).token == "bob"
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked["kind"] == "ExecCredential"
    assert asked["spec"] == {"interactive": False, "cluster": {"server": "https://lab.example:6443/"}}


def test_a_pod_speaks_by_its_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "ACCOUNT", tmp_path)
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert endpoint_module.is_pod(environment)
    assert not endpoint_module.is_pod({**environment, "KUBECONFIG": "x"})
    assert endpoint_module.pod_namespace() == "default"
    with pytest.raises(SpecInvalid, match="--kubeconfig"):
        endpoint_module.pod_endpoint(environment)
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / name).write_text(name)
    found = endpoint_module.pod_endpoint(environment)
    assert (found.server, found.token, found.ca) == ("https://[fd00::1]:443", "token", b"ca.crt")
    assert endpoint_module.pod_namespace() == "namespace"


EXEC = {"exec": {"command": "no-such-program", "interactiveMode": "Never"}}
BROKEN: dict[str, tuple[Any, str | None, str]] = {
    "not yaml": ("a: b: c", None, r"is not YAML in line 1; correct it"),
    "not a mapping": ("- a", None, r"is not a kubeconfig"),
    "empty": ("", None, r"names no current context; give --context.*it has: none"),
    "no current context": (config(**{"current-context": ""}), None, r"use-context NAME; it has: lab"),
    "unknown context": (config(), "moon", r"no context 'moon'; give --context; it has: lab"),
    "no cluster": (config(clusters=[]), None, r"names cluster 'c', which has no server"),
    "no user": (config(users=[]), None, r"names user 'u', which it does not have"),
    "no name": (config(users=[{"user": {}}]), None, r"users: an entry has no name"),
    "not a list": (config(users="u"), None, r"users: an entry has no name"),
    "server": (config(clusters=[{"name": "c", "cluster": {"server": "lab"}}]), None, r"server 'lab'.*no http"),
    "data": (cluster(**{"certificate-authority-data": "?"}), None, r"certificate-authority-data of 'c' is not base64"),
    "file": (cluster(**{"certificate-authority": "absent"}), None, r"certificate-authority of 'c': No such file"),
    "token file": (user(tokenFile="absent"), None, r"tokenFile of 'u': No such file"),
    "no program": (user(**EXEC), None, r"needs the program 'no-such-program': install it"),
    "program fails": (user(exec={"command": "false"}), None, r"'false' gives user 'u' no credentials.*log in"),
    "program is mute": (user(exec={"command": "true"}), None, r"'true' answers user 'u' with no ExecCredential"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_kubeconfig_is_reported_with_a_remedy(tmp_path: Path, case: str) -> None:
    content, context, words = BROKEN[case]
    with pytest.raises(SpecInvalid, match=words) as error:
        endpoint(write(tmp_path / "k", content), context)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_readable(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match=r"absent does not exist; name another file with --kubeconfig or KUBECONFIG"):
        endpoint(tmp_path / "absent")
    with pytest.raises(SpecInvalid, match="cannot be read: Is a directory"):
        endpoint(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecInvalid, match="cannot be read: it is not text"):
        endpoint(tmp_path / "binary")
