"""Verbs that read the installation find it in any namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kigi.cli.main import app
from tests.support.answering import AnsweringServer

BINDING = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kigi-operator"
SUBJECTS = [{"kind": "ServiceAccount", "name": "kigi-operator", "namespace": "vm-range"}]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIGI_NAMESPACE", raising=False)


@pytest.mark.parametrize(
    ("options", "has_binding", "namespace"),
    [((), True, "vm-range"), ((), False, "kigi-system"), (("--kigi-namespace", "named"), True, "named")],
)
@pytest.mark.parametrize("verb", [("version",), ("doctor", "--no-buckets"), ("report", "--to", "x.tar.gz")], ids=str)
def test_the_namespace_is_that_of_the_operators_account(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: tuple[str, ...],
    options: tuple[str, ...],
    has_binding: bool,
    namespace: str,
) -> None:
    def reply(method: str, target: str) -> tuple[int, Any]:
        path = target.partition("?")[0]
        if path == BINDING and has_binding:
            return 200, {"metadata": {"name": "kigi-operator"}, "subjects": SUBJECTS}
        if method == "POST":
            return 201, {"status": {"allowed": True, "userInfo": {"username": "alice"}}}
        if path.endswith("s"):
            return 200, {"metadata": {}, "items": []}
        return 404, {"kind": "Status", "code": 404}

    monkeypatch.chdir(tmp_path)
    with AnsweringServer(reply) as server:
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
        CliRunner().invoke(app, [*verb, *options, "--kubeconfig", str(kubeconfig)])
        asked = {path.partition("/namespaces/")[2].partition("/")[0] for _, path, _, _ in server.asked}
    assert {name for name in asked if name not in ("", "default", "kube-system", "kubevirt")} == {namespace}
