"""Which credentials ``kigi doctor`` asks a bucket with."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest

from kigi.adapters.kubernetes.session import KubeSession
from kigi.cli.bucket_check import check_bucket
from tests.support.answering import AnsweringServer
from tests.support.bodies import repository_body


class Secrets:
    """An API server with one Secret for every name."""

    def __init__(self, **data: str) -> None:
        self._data = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}

    def get(self, resource: Any, namespace: str | None, name: str) -> dict[str, Any]:
        return {"data": self._data}


def test_a_repository_without_secrets_is_not_asked() -> None:
    body = repository_body("main", s3={"endpoint": "http://127.0.0.1:9", "bucket": "kigi"}, credentials={})
    answer = check_bucket(cast(KubeSession, Secrets()), "kigi-system", body, {})
    assert answer.unread is not None
    assert "the credentials of their pods" in answer.unread


@pytest.mark.parametrize("token", [None, "a-token"])
def test_temporary_credentials_are_used_with_their_token(token: str | None) -> None:
    more = {"sessionToken": token} if token else {}
    secrets = Secrets(accessKeyId="r", secretAccessKey="s", **more)
    with AnsweringServer(lambda method, path: (403, b"<Error><Code>InvalidAccessKeyId</Code></Error>")) as server:
        body = repository_body("main", s3={"endpoint": server.url, "bucket": "kigi"})
        answer = check_bucket(cast(KubeSession, secrets), "kigi-system", body, {"AWS_ACCESS_KEY_ID": ""})
    assert answer.reason == "AccessDenied"
    (sent,) = [headers for method, _, headers, _ in server.asked if method == "GET"]
    assert sent.get("X-Amz-Security-Token") == token
