"""API servers with a certificate of a private authority, with the strictness of Python 3.13."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import yaml

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.adapters.kubernetes.resources import NAMESPACE
from kigi.adapters.kubernetes.session import KubeSession
from kigi.errors import Unreachable
from tests.support.picky_proxy import PickyProxy, Reply, Request
from tests.support.private_authority import be_strict, certificate

BODY = b'{"kind": "Namespace", "metadata": {"name": "lab"}}'


def answer(request: Request) -> Reply:
    return Reply(200, BODY, {"Content-Type": "application/json"})


def kubeconfig(folder: Path, server: str, ca_file: str) -> str:
    cluster = {"name": "c", "cluster": {"server": server, "certificate-authority": ca_file}}
    user = {"name": "u", "user": {"token": "t"}}
    context = {"name": "here", "context": {"cluster": "c", "user": "u"}}
    document = {"current-context": "here", "clusters": [cluster], "users": [user], "contexts": [context]}
    (folder / "kubeconfig").write_text(yaml.safe_dump(document))
    return str(folder / "kubeconfig")


async def read(folder: Path, server: str, ca_file: str) -> str:
    """By the client of operator and daemon."""
    configuration = await load_configuration(kubeconfig(folder, server, ca_file))
    async with KubeClient(configuration) as client:
        return str((await client.get(NAMESPACE, None, "lab") or {})["metadata"]["name"])


async def test_an_authority_without_key_usage_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, ca_file = certificate(tmp_path, with_key_usage=False)
    be_strict(monkeypatch)
    assert ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT
    with PickyProxy("http://unused", answer, tls) as server:
        assert await read(tmp_path, server.endpoint, ca_file) == "lab"
        endpoint = Endpoint(server.endpoint, Path(ca_file).read_bytes())
        with KubeSession(endpoint, manager="test") as session:
            assert session.get(NAMESPACE, None, "lab") is not None


async def test_a_refused_certificate_is_named_in_openssls_words(tmp_path: Path) -> None:
    tls, _ = certificate(tmp_path, with_key_usage=True)
    (tmp_path / "other").mkdir()
    _, other = certificate(tmp_path / "other", with_key_usage=True)
    words = "its certificate is refused: certificate signature failure|unable to get local issuer|self-signed"
    with PickyProxy("http://unused", answer, tls) as server:
        with pytest.raises(Unreachable, match=words) as caught:
            await read(tmp_path, server.endpoint, other)
        assert "must include the one that issued the API server's certificate" in str(caught.value)
        endpoint = Endpoint(server.endpoint, Path(other).read_bytes())
        with KubeSession(endpoint, manager="test") as session, pytest.raises(Unreachable, match="do not vouch"):
            session.get(NAMESPACE, None, "lab")
