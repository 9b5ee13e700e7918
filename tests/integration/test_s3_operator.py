"""The operator's reconcile of a LayerRepository with a real S3 server; the API server is one in memory."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, cast

import pytest

from kigi.adapters.s3_probe import S3Probe
from kigi.errors import RepositoryMisconfigured
from kigi.mirror.keys import Key
from kigi.planning.repository_files import DAEMON_SECRET
from kigi.reconcilers.repositories import reconcile_repository
from localcluster.s3 import READER, S3Server
from tests.support.aws_environment import nowhere
from tests.support.bodies import repository_body
from tests.support.fake_time import FakeTime
from tests.support.memory_api import MemoryApi, memory_ports
from tests.support.picky_proxy import PickyProxy, Reply, Request, s3_error
from tests.support.why import explained

NAMESPACE = "kigi-system"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere(monkeypatch, tmp_path)


class Operator:
    """Reconciles the LayerRepository ``main``."""

    def __init__(self, s3: S3Server, endpoint: str, bucket: str, **location: str) -> None:
        self.api = MemoryApi()
        self.ports = memory_ports(self.api, FakeTime())
        self.ports.probe = S3Probe()
        s3.grant_reading(bucket)
        self._secret(DAEMON_SECRET)
        self._secret("reader", accessKeyId=READER.access_key, secretAccessKey=READER.secret_key)
        self._secret("writer", accessKeyId=s3.credentials.access_key, secretAccessKey=s3.credentials.secret_key)
        spec: dict[str, Any] = {
            "s3": {"endpoint": endpoint, "bucket": bucket, **location},
            "credentials": {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}},
        }
        body = self.api.put({**repository_body("main", **spec), "metadata": {"name": "main", "generation": 1}})
        self.ports.mirror.put("LayerRepository", body)

    def _secret(self, name: str, **data: str) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.api.put({"kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": encoded})

    async def reconcile(self) -> None:
        await reconcile_repository(self.ports, Key("repository", "", "main"))

    def conditions(self) -> dict[str, tuple[str, str, str]]:
        status = cast("dict[str, Any]", self.api.objects["LayerRepository", None, "main"]["status"])
        return {each["type"]: (each["status"], each["reason"], each["message"]) for each in status["conditions"]}

    def settings(self) -> dict[str, Any]:
        """What nodes get."""
        data = self.api.objects["Secret", NAMESPACE, DAEMON_SECRET]["data"]
        found: dict[str, Any] = json.loads(base64.b64decode(data["main.json"]))
        return found


@pytest.mark.why("RepositoryMisconfigured")
async def test_a_wrong_setting_stalls_it_with_the_value_to_set(s3: S3Server, bucket: str) -> None:
    elsewhere = s3_error(301, "PermanentRedirect", "<Endpoint>s3.eu-central-1.example</Endpoint>")
    page = Reply(413, b"<html>413 Request Entity Too Large</html>")
    for reply, words in ((elsewhere, "to the URL of s3.eu-central-1.example"), (page, "client_max_body_size")):
        with PickyProxy(s3.endpoint, lambda request, reply=reply: reply) as proxy:  # type: ignore[misc]
            operator = Operator(s3, proxy.endpoint, bucket)
            with pytest.raises(RepositoryMisconfigured) as caught:
                await operator.reconcile()
            status, reason, message = operator.conditions()["Stalled"]
            assert (status, reason) == ("True", "RepositoryMisconfigured")
            assert words in message
            assert explained(caught.value)["remedy"]


async def test_the_region_of_the_server_reaches_nodes(s3: S3Server, bucket: str) -> None:
    operator = Operator(s3, s3.endpoint, bucket, region="eu-west-1")
    await operator.reconcile()
    assert operator.settings()["region"] == "us-east-1"
    assert "correct spec.s3.region, which is eu-west-1" in operator.conditions()["Ready"][2]
    assert operator.conditions()["Writable"][:2] == ("True", "Writable")


async def test_a_server_that_refuses_conditions_is_writable(s3: S3Server, bucket: str) -> None:
    def rule(request: Request) -> Reply | None:
        return s3_error(501, "NotImplemented") if "if-none-match" in request.headers else None

    with PickyProxy(s3.endpoint, rule) as proxy:
        operator = Operator(s3, proxy.endpoint, bucket)
        await operator.reconcile()
    assert operator.conditions()["Ready"][0] == "True"
    status, reason, message = operator.conditions()["Writable"]
    assert (status, reason) == ("True", "ConditionalWritesUnsupported")
    assert "501" in message
