"""LayerRepositories: nodes get the right credentials and no others, probes decide the status."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from kigi.adapters.credentials import Keys
from kigi.adapters.s3_probe import ConditionalWrites, S3Probe
from kigi.api.repositories import Repository
from kigi.errors import (
    AccessDenied,
    KigiError,
    RepositoryMisconfigured,
    RepositoryUnknown,
    RepositoryUnreachable,
    SpecInvalid,
)
from kigi.mirror.keys import SWEEP_KEY, Key, node_key
from kigi.planning.signed_uploads import request_of
from kigi.reconcilers.node_caches import _writers
from kigi.reconcilers.repositories import MAX_CA_BYTES, PROBE_S, WRITE_PROBE_S, reconcile_repository
from kigi.runtime.queue import WorkQueue
from tests.support.bodies import cache_body, repository_body
from tests.support.fake_time import FakeTime
from tests.support.memory_api import MemoryApi, memory_ports

NAMESPACE = "kigi-system"
DAEMONS, FORMER = "kigi-daemon-repositories", "kigi-publisher-repositories"
KEY = Key("repository", "", "main")
BOTH = {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}}


class Probe:
    """Answers of an S3 server."""

    def __init__(self) -> None:
        self.read_error: KigiError | None = None
        self.write_result: ConditionalWrites | KigiError = ConditionalWrites.SUPPORTED
        self.region = "us-east-1"
        self.reads: list[Repository] = []
        self.writes: list[Repository] = []

    async def read(self, repository: Repository, ca_bundle: str | None) -> str:
        self.reads.append(repository)
        if self.read_error is not None:
            raise self.read_error
        return self.region

    async def write(self, repository: Repository, ca_bundle: str | None) -> ConditionalWrites:
        self.writes.append(repository)
        if isinstance(self.write_result, KigiError):
            raise self.write_result
        return self.write_result


class Cluster:
    """An API server with Kigi's namespace, and an operator that has seen its LayerRepositories."""

    def __init__(self) -> None:
        self.api, self.time, self.probe = MemoryApi(), FakeTime(), Probe()
        self.ports = memory_ports(self.api, self.time)
        self.ports.mirror.gone("LayerRepository", None, "default", "")
        self.ports.probe = cast(S3Probe, self.probe)
        self.secret(DAEMONS)
        self.secret("reader", accessKeyId="r", secretAccessKey="read-secret")
        self.secret("writer", accessKeyId="w", secretAccessKey="write-secret")

    def secret(self, name: str, **data: str) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.api.put({"kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": encoded})

    def config(self, name: str, **data: str) -> None:
        self.api.put({"kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data})

    def create(self, name: str = "main", **spec: Any) -> None:
        body = self.api.put({**repository_body(name, **spec), "metadata": {"name": name, "generation": 1}})
        self.ports.mirror.put("LayerRepository", body)

    async def reconcile(self, key: Key = KEY) -> float | None:
        return await reconcile_repository(self.ports, key)

    def files(self, secret: str) -> dict[str, str]:
        data = self.api.objects["Secret", NAMESPACE, secret].get("data") or {}
        return {name: base64.b64decode(text).decode() for name, text in data.items()}

    def status(self, name: str = "main") -> dict[str, Any]:
        return cast("dict[str, Any]", self.api.objects["LayerRepository", None, name]["status"])

    def condition(self, type_: str) -> tuple[str, str, str]:
        (found,) = (each for each in self.status()["conditions"] if each["type"] == type_)
        return found["status"], found["reason"], found["message"]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_nodes_get_the_reader_and_the_operator_keeps_the_writer(cluster: Cluster) -> None:
    cluster.create(credentials=BOTH)
    assert await cluster.reconcile() == PROBE_S
    assert json.loads(cluster.files(DAEMONS)["main.json"])["secretAccessKey"] == "read-secret"
    written = [body for key, body in cluster.api.objects.items() if key[0] == "Secret" and key[2] != "writer"]
    encoded = base64.b64encode(b"write-secret").decode()
    assert "write-secret" not in str(cluster.files(DAEMONS))
    assert not any(encoded in str(body) for body in written), "no object but the administrator's Secret has it"
    writer = cluster.ports.writers["main"]
    assert isinstance(writer, Repository)
    assert (writer.access_key_id, writer.secret_access_key) == ("w", "write-secret")
    assert cluster.condition("Ready")[:2] == ("True", "Reachable")
    assert cluster.condition("Writable")[:2] == ("True", "Writable")
    assert (cluster.status()["reachable"], cluster.status()["conditionalWrites"]) == (True, "Supported")


async def test_credentials_that_an_earlier_version_gave_to_nodes_are_withdrawn(cluster: Cluster) -> None:
    cluster.secret(FORMER, **{"main.json": "{}", "main.ca.crt": "PEM", "gone.json": "{}"})
    cluster.create(credentials=BOTH)
    await cluster.reconcile()
    assert cluster.files(FORMER) == {}
    del cluster.api.objects["Secret", NAMESPACE, FORMER]
    assert await cluster.reconcile() == PROBE_S, "an administrator has deleted it"


async def test_nodes_with_uploads_get_others_when_the_writer_changes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.create(credentials=BOTH)
    upload = {"digest": "sha256:" + "d" * 64, "sizeBytes": 1}
    order = {
        "id": "c1",
        "volume": "v",
        "parentDigest": "sha256:" + "a" * 64,
        "virtualSizeBytes": 512,
        "repositoryName": "main",
        "action": "Keep",
        "mounted": False,
        "upload": upload,
    }
    for node, repository in (("n1", "main"), ("n2", "other")):
        captures = [{**order, "repositoryName": repository}]
        body = {**cache_body(node), "metadata": {"name": node, "uid": node, "resourceVersion": "1", "generation": 1}}
        body["spec"] = {"nodeName": node, "operatorProtocol": 1, "protocol": 1, "captures": captures}
        cluster.ports.mirror.put("NodeCache", body)

    async def enqueued() -> set[Key]:
        added: set[Key] = set()
        monkeypatch.setattr(WorkQueue, "add", lambda queue, key: added.add(key))
        await cluster.reconcile()
        return added

    assert await enqueued() == {node_key("n1")}, "the operator has just started"
    assert await enqueued() == set()
    cluster.secret("writer", accessKeyId="w", secretAccessKey="rotated")
    assert await enqueued() == {node_key("n1")}
    writer = cluster.ports.writers["main"]
    assert isinstance(writer, Repository)
    assert writer.secret_access_key == "rotated"
    del cluster.api.objects["Secret", NAMESPACE, "writer"]
    assert await enqueued() == {node_key("n1")}
    assert await enqueued() == set(), "the same error again"
    assert isinstance(cluster.ports.writers["main"], SpecInvalid)
    cluster.secret("writer", accessKeyId="w", secretAccessKey="rotated")
    assert await enqueued() == {node_key("n1")}
    cluster.create(credentials=BOTH, s3={"endpoint": "no URL", "bucket": "kigi"})
    assert await enqueued() == {node_key("n1")}, "the spec is invalid: nothing is signed with the former one"
    assert isinstance(cluster.ports.writers["main"], KigiError)
    cluster.ports.mirror.gone("LayerRepository", None, "main", "")
    assert await enqueued() == {node_key("n1")}
    assert await enqueued() == set()
    assert isinstance(_writers(cluster.ports, "n1")["main"], RepositoryUnknown), "not awaited: it is gone"


async def test_a_repository_without_a_writer_is_ready_and_not_written_to(cluster: Cluster) -> None:
    cluster.create()
    await cluster.reconcile()
    assert str(cluster.ports.writers["main"]) == "spec.credentials.writerSecretRef is not set"
    assert cluster.probe.writes == []
    assert cluster.condition("Ready")[0] == "True"
    assert cluster.condition("Writable")[:2] == ("False", "NoWriter")
    assert cluster.status()["conditionalWrites"] == "Unknown"


async def test_a_rotated_secret_reaches_the_nodes_at_the_next_probe(cluster: Cluster) -> None:
    cluster.create(credentials=BOTH)
    await cluster.reconcile()
    cluster.secret("reader", accessKeyId="r2", secretAccessKey="rotated")
    await cluster.reconcile()
    assert json.loads(cluster.files(DAEMONS)["main.json"])["accessKeyId"] == "r2"
    writes = [entry for entry in cluster.api.log if entry[0] == "patch" and entry[1] == "Secret"]
    assert len(writes) == 2
    await cluster.reconcile()
    assert [entry for entry in cluster.api.log if entry[0] == "patch" and entry[1] == "Secret"] == writes


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(None, "does not exist; create it, or name another one", id="missing"),
        pytest.param({"accessKeyId": "r"}, "key secretAccessKey is missing", id="half"),
        pytest.param({"accessKeyId": "  ", "secretAccessKey": "x"}, "key accessKeyId is missing, empty", id="empty"),
        pytest.param({"accessKeyId": "r" * 513, "secretAccessKey": "x"}, "key accessKeyId is missing", id="long"),
        pytest.param({"accessKeyId": "r\r\nHost: x", "secretAccessKey": "x"}, "key accessKeyId", id="two lines"),
    ],
)
async def test_a_missing_or_damaged_secret_is_named_and_withdrawn_from_the_nodes(
    cluster: Cluster, data: dict[str, str] | None, words: str
) -> None:
    cluster.create(credentials=BOTH)
    await cluster.reconcile()
    if data is None:
        del cluster.api.objects["Secret", NAMESPACE, "reader"]
    else:
        cluster.secret("reader", **data)
    with pytest.raises(SpecInvalid, match=words):
        await cluster.reconcile()
    assert cluster.files(DAEMONS) == {}
    status, _, message = cluster.condition("Stalled")
    assert status == "True"
    assert f"spec.credentials.readerSecretRef: Secret {NAMESPACE}/reader" in message
    assert "reachable" not in cluster.status()


async def test_data_of_a_secret_that_is_no_text_is_refused(cluster: Cluster) -> None:
    for damaged in ("not base64!", base64.b64encode(b"\xff\xfe").decode()):
        cluster.api.objects["Secret", NAMESPACE, "reader"]["data"]["accessKeyId"] = damaged
        cluster.create()
        with pytest.raises(SpecInvalid, match="accessKeyId is missing, empty or no text"):
            await cluster.reconcile()


async def test_while_the_api_server_fails_nodes_keep_their_credentials(cluster: Cluster) -> None:
    cluster.create()
    await cluster.reconcile()
    before = cluster.files(DAEMONS)
    cluster.api.fail_reads = True
    with pytest.raises(KigiError):
        await cluster.reconcile()
    assert cluster.files(DAEMONS) == before != {}


async def test_a_deleted_repository_is_withdrawn_also_if_no_operator_saw_it_go(cluster: Cluster) -> None:
    cluster.create(credentials=BOTH)
    cluster.create("other")
    await cluster.reconcile()
    await cluster.reconcile(KEY._replace(name="other"))
    cluster.ports.mirror.gone("LayerRepository", None, "main", "")
    assert await cluster.reconcile() is None
    assert list(cluster.files(DAEMONS)) == ["other.json"]
    assert list(cluster.ports.writers) == ["other"]
    cluster.ports.mirror.gone("LayerRepository", None, "other", "")
    await cluster.reconcile(SWEEP_KEY)
    assert cluster.files(DAEMONS) == {}


async def test_the_operator_creates_no_secret(cluster: Cluster) -> None:
    del cluster.api.objects["Secret", NAMESPACE, DAEMONS]
    cluster.create()
    with pytest.raises(SpecInvalid, match=f"Secret {NAMESPACE}/{DAEMONS} does not exist; apply Kigi's manifests again"):
        await cluster.reconcile()
    assert ("Secret", NAMESPACE, DAEMONS) not in cluster.api.objects


async def test_authorities_travel_with_the_repository(cluster: Cluster) -> None:
    s3 = {"endpoint": "https://s3.lab", "bucket": "kigi", "caBundleRef": {"name": "s3-ca"}}
    cluster.create(s3=s3, credentials=BOTH)
    with pytest.raises(SpecInvalid, match=f"ConfigMap {NAMESPACE}/s3-ca does not exist"):
        await cluster.reconcile()
    cluster.config("s3-ca", **{"ca.crt": "x" * (MAX_CA_BYTES + 1)})
    with pytest.raises(SpecInvalid, match=r"key ca\.crt must have 1 to"):
        await cluster.reconcile()
    cluster.config("s3-ca", **{"ca.crt": "PEM"})
    await cluster.reconcile()
    files = cluster.files(DAEMONS)
    assert files["main.ca.crt"] == "PEM"
    assert json.loads(files["main.json"])["caFile"] == "main.ca.crt"


async def test_an_unreachable_server_is_retried_and_not_written_to(cluster: Cluster) -> None:
    cluster.create(credentials=BOTH)
    cluster.probe.read_error = RepositoryUnreachable("http://s3.example: no route")
    with pytest.raises(RepositoryUnreachable):
        await cluster.reconcile()
    assert cluster.condition("Reconciling")[:2] == ("True", "RepositoryUnreachable")
    assert cluster.condition("Writable")[:2] == ("False", "RepositoryUnreachable")
    assert cluster.status()["reachable"] is False
    assert cluster.probe.writes == []
    assert "main.json" in cluster.files(DAEMONS), "nodes may reach it nevertheless"


async def test_refused_credentials_stall_and_the_server_counts_as_reachable(cluster: Cluster) -> None:
    cluster.create()
    cluster.probe.read_error = AccessDenied("http://s3.example: bucket kigi: InvalidAccessKeyId")
    with pytest.raises(AccessDenied):
        await cluster.reconcile()
    assert cluster.condition("Stalled")[:2] == ("True", "AccessDenied")
    assert cluster.status()["reachable"] is True


@pytest.mark.parametrize(
    ("result", "writable", "supported"),
    [
        (ConditionalWrites.UNSUPPORTED, ("True", "ConditionalWritesUnsupported"), "Unsupported"),
        (AccessDenied("no PutObject"), ("False", "AccessDenied"), "Unknown"),
    ],
)
async def test_the_writer_decides_only_whether_it_is_writable(
    cluster: Cluster, result: ConditionalWrites | KigiError, writable: tuple[str, str], supported: str
) -> None:
    cluster.create(credentials=BOTH)
    cluster.probe.write_result = result
    assert await cluster.reconcile() == PROBE_S
    assert cluster.condition("Ready")[0] == "True"
    assert cluster.condition("Writable")[:2] == writable
    assert cluster.status()["conditionalWrites"] == supported


async def test_writes_are_rare_and_immediate_after_a_change_or_a_failure(cluster: Cluster) -> None:
    cluster.create(credentials=BOTH)
    for _ in range(10):
        await cluster.reconcile()
        cluster.time.advance(PROBE_S)
    assert (len(cluster.probe.reads), len(cluster.probe.writes)) == (10, 1)
    cluster.secret("writer", accessKeyId="w2", secretAccessKey="rotated")
    cluster.probe.write_result = AccessDenied("no PutObject")
    for _ in range(3):
        await cluster.reconcile()
    assert len(cluster.probe.writes) == 4
    cluster.probe.write_result = ConditionalWrites.SUPPORTED
    await cluster.reconcile()
    cluster.time.advance(WRITE_PROBE_S)
    await cluster.reconcile()
    assert len(cluster.probe.writes) == 6


async def test_an_unchanged_result_writes_no_status(cluster: Cluster) -> None:
    cluster.create(credentials=BOTH)
    await cluster.reconcile()
    cluster.ports.mirror.put("LayerRepository", cluster.api.objects["LayerRepository", None, "main"])
    before = len(cluster.api.log)
    for _ in range(3):
        await cluster.reconcile()
    assert cluster.api.log[before:] == []


async def test_a_stored_spec_that_does_not_validate_is_reported_and_changes_nothing(cluster: Cluster) -> None:
    cluster.create(credentials=BOTH)
    await cluster.reconcile()
    before = cluster.files(DAEMONS)
    cluster.create(s3={"endpoint": "nonsense", "bucket": "kigi"})
    assert await cluster.reconcile() is None
    assert cluster.condition("Stalled")[:2] == ("True", "SpecInvalid")
    assert cluster.files(DAEMONS) == before


def readable(name: str = "main") -> float | None:
    return REGISTRY.get_sample_value("kigi_repository_readable", {"repository": name})


async def test_the_metric_of_the_alert_follows_the_probe_and_ends_with_the_repository(cluster: Cluster) -> None:
    cluster.create()
    await cluster.reconcile()
    assert readable() == 1
    cluster.probe.read_error = RepositoryUnreachable("https://s3.example.org: no answer")
    with pytest.raises(RepositoryUnreachable):
        await cluster.reconcile()
    assert readable() == 0
    cluster.ports.mirror.gone("LayerRepository", None, "main", "")
    await cluster.reconcile()
    assert readable() is None, "an alert about a repository that was deleted would never end"


# Temporary credentials, and those of the pods.


async def test_a_session_token_reaches_nodes_and_signs_uploads(cluster: Cluster) -> None:
    cluster.secret("reader", accessKeyId="r", secretAccessKey="x", sessionToken="read-token")
    cluster.secret("writer", accessKeyId="w", secretAccessKey="y", sessionToken="write-token")
    cluster.create(credentials=BOTH)
    await cluster.reconcile()
    assert json.loads(cluster.files(DAEMONS)["main.json"])["sessionToken"] == "read-token"
    assert "write-token" not in str(cluster.files(DAEMONS))
    writer = cluster.ports.writers["main"]
    assert isinstance(writer, Repository)
    assert writer.session_token == "write-token"
    assert "token" not in repr(writer)


async def test_without_secrets_each_process_uses_the_credentials_of_its_pod(cluster: Cluster) -> None:
    keys = [Keys("own", "own-secret", f"token-{number}") for number in range(2)]
    cluster.ports.own_keys = lambda repository: keys[0]
    cluster.create(credentials={})
    await cluster.reconcile()
    settings = json.loads(cluster.files(DAEMONS)["main.json"])
    assert not {"accessKeyId", "secretAccessKey", "sessionToken"} & settings.keys()
    assert "own-secret" not in str(cluster.files(DAEMONS))
    assert cluster.condition("Writable")[0] == "True"
    for key in keys:
        cluster.ports.own_keys = lambda repository, key=key: key  # type: ignore[misc]
        await cluster.reconcile()
        writer = cluster.ports.writers["main"]
        assert isinstance(writer, Repository)
        assert (writer.access_key_id, writer.session_token) == ("own", key.session_token), "renewed with each probe"


async def test_a_pod_without_credentials_is_an_error_of_the_writer(cluster: Cluster) -> None:
    def none(repository: Repository) -> Keys:
        raise SpecInvalid("there are no credentials for S3: set AWS_ROLE_ARN")

    cluster.ports.own_keys = none
    cluster.create(credentials={})
    await cluster.reconcile()
    assert cluster.condition("Writable")[:2] == ("False", "SpecInvalid")
    assert isinstance(cluster.ports.writers["main"], SpecInvalid)


# What the server's answers say about its settings.


async def test_the_region_that_the_server_names_reaches_nodes_and_signatures(cluster: Cluster) -> None:
    cluster.probe.region = "eu-central-1"
    cluster.create(credentials=BOTH)
    await cluster.reconcile()
    assert json.loads(cluster.files(DAEMONS)["main.json"])["region"] == "eu-central-1"
    writer = cluster.ports.writers["main"]
    assert isinstance(writer, Repository)
    assert writer.region == "eu-central-1"
    assert cluster.probe.writes[0].region == "eu-central-1"
    cluster.probe.read_error = RepositoryUnreachable("down")
    with pytest.raises(RepositoryUnreachable):
        await cluster.reconcile()
    assert json.loads(cluster.files(DAEMONS)["main.json"])["region"] == "eu-central-1", "it is still known"


async def test_a_wrong_region_in_the_settings_is_reported(cluster: Cluster) -> None:
    cluster.probe.region = "eu-central-1"
    cluster.create(s3={"endpoint": "https://s3.example", "bucket": "kigi", "region": "us-west-2"})
    await cluster.reconcile()
    status, _, message = cluster.condition("Ready")
    assert status == "True"
    assert "in region eu-central-1: correct spec.s3.region, which is us-west-2" in message


async def test_uploads_to_a_server_that_refuses_conditions_are_signed_without_it(cluster: Cluster) -> None:
    cluster.probe.write_result = ConditionalWrites.REFUSED
    cluster.create(credentials=BOTH)
    for error in (None, RepositoryUnreachable("down")):
        cluster.probe.read_error = error
        with contextlib.suppress(RepositoryUnreachable):
            await cluster.reconcile()
        writer = cluster.ports.writers["main"]
        assert isinstance(writer, Repository)
        assert writer.conditional_writes is False
        request = request_of(writer, "sha256:" + "a" * 64, 5, None, cluster.ports.now())
        assert "if-none-match" not in request.authorization
    cluster.probe.read_error = None
    await cluster.reconcile()
    assert cluster.condition("Writable")[:2] == ("True", "ConditionalWritesUnsupported")
    assert cluster.status()["conditionalWrites"] == "Refused"


@pytest.mark.parametrize("answer", ["certificate is refused", "too large"])
async def test_a_wrong_setting_stalls_the_repository(cluster: Cluster, answer: str) -> None:
    cluster.probe.read_error = RepositoryMisconfigured(f"https://s3: {answer}")
    cluster.create(credentials=BOTH)
    with pytest.raises(RepositoryMisconfigured):
        await cluster.reconcile()
    assert cluster.condition("Stalled") == ("True", "RepositoryMisconfigured", f"https://s3: {answer}")
