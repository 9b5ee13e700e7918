"""Which credentials ``kigi doctor`` asks a bucket with."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from kigi.adapters.kubernetes.session import KubeSession
from kigi.cli.bucket_check import check_bucket
from kigi.cli.cluster import Access, open_cluster
from tests.support.answering import AnsweringServer
from tests.support.bodies import repository_body
from tests.support.pod_network import PODS, READER, REPOSITORY, SERVICE, WRITER, PodNetwork


class Secrets:
    """An API server with one Secret for every name."""

    def __init__(self, **data: str) -> None:
        self._data = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}

    def get(self, resource: Any, namespace: str | None, name: str) -> dict[str, Any]:
        return {"data": self._data}


def test_a_repository_without_secrets_is_not_asked() -> None:
    body = repository_body("main", s3={"endpoint": "http://127.0.0.1:9", "bucket": "kigi"}, credentials={})
    answer = check_bucket(cast(KubeSession, Secrets()), Access(), "kigi-system", body, {})
    assert answer.unread is not None
    assert "the credentials of their pods" in answer.unread


@pytest.mark.parametrize("token", [None, "a-token"])
def test_temporary_credentials_are_used_with_their_token(token: str | None) -> None:
    more = {"sessionToken": token} if token else {}
    secrets = Secrets(accessKeyId="r", secretAccessKey="s", **more)
    with AnsweringServer(lambda method, path: (403, b"<Error><Code>InvalidAccessKeyId</Code></Error>")) as server:
        body = repository_body("main", s3={"endpoint": server.url, "bucket": "kigi"})
        answer = check_bucket(cast(KubeSession, secrets), Access(), "kigi-system", body, {"AWS_ACCESS_KEY_ID": ""})
    assert answer.reason == "AccessDenied"
    (sent,) = [headers for method, _, headers, _ in server.asked if method == "GET"]
    assert sent.get("X-Amz-Security-Token") == token


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda _: None, "AccessDenied", "InvalidAccessKeyId"),
        (lambda n: n.objects.pop(SERVICE), "RepositoryUnreachable", "Service kigi-system/kigi-s3 does not exist"),
        (lambda n: n.forbidden.add(SERVICE), None, "you need the right to get services"),
        (lambda n: n.forbidden.add(f"{PODS}/"), None, "right to get and to create pods/portforward"),
        (lambda n: n.add_repository("kigi", addressing="VirtualHost"), None, "a tunnel needs Path"),
    ],
)
def test_a_service_of_the_cluster_is_asked_through_the_api_server(
    tmp_path: Path, change: Callable[[PodNetwork], None], reason: str | None, words: str
) -> None:
    refusal = b"<Error><Code>InvalidAccessKeyId</Code><Message>InvalidAccessKeyId</Message></Error>"
    with AnsweringServer(lambda method, path: (403, refusal)) as server:
        network = PodNetwork(int(server.url.rpartition(":")[2]))
        network.add_repository("kigi")
        for path in (READER, WRITER):
            network.add_keys(path, "user", "secret")
        change(network)
        body = network.objects[REPOSITORY]
        with network.serving(tmp_path) as access, open_cluster(access) as kube:
            answer = check_bucket(kube, access, "kigi-system", body, {})
    assert (answer.reason or None) == reason
    assert words in (answer.message or answer.unread or "")
    assert bool(server.asked) == (reason == "AccessDenied")
