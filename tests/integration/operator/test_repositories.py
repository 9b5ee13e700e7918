"""LayerRepositories with a real S3 server: the operator has the rights of the manifests and no more."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import IMAGE, REPOSITORY, SECRET
from kigi.adapters.s3_probe import ConditionalWrites, S3Probe
from kigi.api.repositories import Repository
from kigi.domain.names import API_VERSION
from kigi.domain.repository_points import WRITE_KEY
from localcluster.controlplane import ControlPlane
from localcluster.s3 import READER, S3Server
from tests.support.cluster import REPOSITORY as ROOT
from tests.support.cluster import eventually_async
from tests.support.deployments import apply, image
from tests.support.operator_run import FAST, OperatorRun
from tests.support.picky_proxy import PickyProxy, Reply, Request, s3_error
from tests.support.why import explained

SYSTEM = "kigi-system"
DAEMONS, FORMER = "kigi-daemon-repositories", "kigi-publisher-repositories"
_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def secrets(plane: ControlPlane, s3: S3Server) -> None:
    """The empty Secret of the manifests, one that an earlier version filled, and those of the administrator."""
    plane.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/daemon/secrets.yaml"))
    put_secret(plane, FORMER, "a-writer", "its-secret")
    put_secret(plane, "reader", READER.access_key, READER.secret_key)
    put_secret(plane, "writer", s3.credentials.access_key, s3.credentials.secret_key)


@pytest.fixture
async def operator(plane: ControlPlane, operator_kubeconfig: str) -> AsyncIterator[OperatorRun]:
    settings = FAST.model_copy(update={"namespace": SYSTEM, "resync_s": 1.0})
    async with OperatorRun(operator_kubeconfig, settings=settings) as run:
        yield run


@pytest.fixture
def name(plane: ControlPlane) -> Iterator[str]:
    found = f"repo-{next(_numbers)}"
    yield found
    plane.kubectl("delete", "layerrepository", found, "--ignore-not-found")


def put_secret(plane: ControlPlane, name: str, access: str, secret: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {"accessKeyId": access, "secretAccessKey": secret},
    }
    apply(plane, SYSTEM, body)


def repository(name: str, server: S3Server, bucket: str, **spec: Any) -> dict[str, Any]:
    described = {
        "s3": {"endpoint": server.endpoint, "bucket": bucket},
        "credentials": {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}},
        "namespaceSelector": {"matchLabels": {"tenant": name}},
        **spec,
    }
    return {"apiVersion": API_VERSION, "kind": "LayerRepository", "metadata": {"name": name}, "spec": described}


async def files(kube: KubeClient, secret: str) -> dict[str, Any]:
    body = await kube.get(SECRET, SYSTEM, secret)
    assert body is not None
    return {name: json.loads(base64.b64decode(text)) for name, text in (body.get("data") or {}).items()}


async def conditions(kube: KubeClient, name: str) -> dict[str, tuple[str, str]]:
    body = await kube.get(REPOSITORY, None, name) or {}
    found = (body.get("status") or {}).get("conditions") or ()
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in found}


async def wait_for(kube: KubeClient, name: str, type_: str, status: str, reason: str) -> None:
    async def reached() -> bool:
        return (await conditions(kube, name)).get(type_) == (status, reason)

    await eventually_async(reached, 30, f"{name}: {type_} {status} {reason}")


async def test_a_repository_reaches_the_nodes_is_probed_and_goes(
    plane: ControlPlane, kube: KubeClient, operator: OperatorRun, s3: S3Server, bucket: str, name: str
) -> None:
    s3.grant_reading(bucket)
    apply(plane, SYSTEM, repository(name, s3, bucket))
    await wait_for(kube, name, "Ready", "True", "Reachable")
    await wait_for(kube, name, "Writable", "True", "Writable")
    status = (await kube.get(REPOSITORY, None, name) or {})["status"]
    assert (status["reachable"], status["conditionalWrites"]) == (True, "Supported")
    assert (s3.data / bucket / WRITE_KEY).read_bytes() == b""
    daemons = await files(kube, DAEMONS)
    assert daemons[f"{name}.json"]["accessKeyId"] == READER.access_key
    assert s3.credentials.secret_key not in str(daemons)
    assert await files(kube, FORMER) == {}, "what an earlier version gave to nodes is withdrawn"
    plane.kubectl("delete", "layerrepository", name)

    async def gone() -> bool:
        return f"{name}.json" not in await files(kube, DAEMONS)

    await eventually_async(gone)


async def test_what_an_administrator_must_correct_is_named_and_heals(
    plane: ControlPlane, kube: KubeClient, operator: OperatorRun, s3: S3Server, bucket: str, name: str
) -> None:
    s3.grant_reading(bucket)
    secret = f"{name}-reader"
    apply(plane, SYSTEM, repository(name, s3, bucket, credentials={"readerSecretRef": {"name": secret}}))
    await wait_for(kube, name, "Stalled", "True", "SpecInvalid")
    put_secret(plane, secret, READER.access_key, "wrong")
    await wait_for(kube, name, "Stalled", "True", "AccessDenied")
    put_secret(plane, secret, READER.access_key, READER.secret_key)
    await wait_for(kube, name, "Ready", "True", "Reachable")
    await wait_for(kube, name, "Writable", "False", "NoWriter")
    apply(plane, SYSTEM, repository(name, s3, "no-such-bucket"))
    await wait_for(kube, name, "Stalled", "True", "RepositoryUnknown")
    unreachable = {"endpoint": "http://127.0.0.1:9", "bucket": bucket}
    apply(plane, SYSTEM, repository(name, s3, bucket, s3=unreachable))
    await wait_for(kube, name, "Reconciling", "True", "RepositoryUnreachable")


@pytest.mark.why("RepositoryMisconfigured")
async def test_a_setting_that_the_answer_shows_as_wrong_is_named_and_the_right_region_is_taken(
    plane: ControlPlane, kube: KubeClient, operator: OperatorRun, s3: S3Server, bucket: str, name: str
) -> None:
    s3.grant_reading(bucket)
    replies: list[Reply] = [s3_error(301, "PermanentRedirect", "<Endpoint>s3.eu-central-1.example</Endpoint>")]

    def rule(request: Request) -> Reply | None:
        return replies[0] if replies else None

    with PickyProxy(s3.endpoint, rule) as proxy:
        settings = {"endpoint": proxy.endpoint, "bucket": bucket, "region": "eu-west-1"}
        apply(plane, SYSTEM, repository(name, s3, bucket, s3=settings))
        await wait_for(kube, name, "Stalled", "True", "RepositoryMisconfigured")
        body = await kube.get(REPOSITORY, None, name) or {}
        assert "to the URL of s3.eu-central-1.example" in str(body["status"]["conditions"])
        assert explained("RepositoryMisconfigured")["remedy"]
        replies.clear()  # now the real server, which names its own region
        await wait_for(kube, name, "Ready", "True", "Reachable")
        await wait_for(kube, name, "Writable", "True", "Writable")
        assert (await files(kube, DAEMONS))[f"{name}.json"]["region"] == "us-east-1"
        body = await kube.get(REPOSITORY, None, name) or {}
        assert "correct spec.s3.region, which is eu-west-1" in str(body["status"]["conditions"])


async def test_a_writer_that_may_only_read_is_reported(
    plane: ControlPlane, kube: KubeClient, operator: OperatorRun, s3: S3Server, bucket: str, name: str
) -> None:
    s3.grant_reading(bucket)
    put_secret(plane, "only-reads", READER.access_key, READER.secret_key)
    credentials = {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "only-reads"}}
    apply(plane, SYSTEM, repository(name, s3, bucket, credentials=credentials))
    await wait_for(kube, name, "Writable", "False", "AccessDenied")
    assert (await conditions(kube, name))["Ready"] == ("True", "Reachable")


async def test_a_namespace_gets_and_loses_a_repository_by_its_labels(
    plane: ControlPlane, kube: KubeClient, operator: OperatorRun, s3: S3Server, bucket: str, name: str, ns: str
) -> None:
    async def ready(status: str, reason: str) -> None:
        async def reached() -> bool:
            body = await kube.get(IMAGE, ns, "top") or {}
            found = (body.get("status") or {}).get("conditions") or ()
            return (status, reason) in {(c["status"], c["reason"]) for c in found if c["type"] == "Ready"}

        await eventually_async(reached, 30, f"image: Ready {status} {reason}")

    apply(plane, SYSTEM, repository(name, s3, bucket))
    named = image("top")
    named["spec"]["repositoryRef"] = {"name": name}
    apply(plane, ns, named)
    await ready("False", "RepositoryNotPermitted")
    plane.kubectl("label", "namespace", ns, f"tenant={name}")
    await ready("True", "ChainComplete")
    plane.kubectl("label", "namespace", ns, "tenant-")
    await ready("False", "RepositoryNotPermitted")


async def test_a_probe_creates_one_object_and_replaces_none(s3: S3Server, bucket: str) -> None:
    keys = {"access_key_id": s3.credentials.access_key, "secret_access_key": s3.credentials.secret_key}
    settings = Repository(endpoint=s3.endpoint, bucket=bucket, **keys)
    for _ in range(3):
        await S3Probe().read(settings, None)
        assert await S3Probe().write(settings, None) is ConditionalWrites.SUPPORTED
    stored = [path for path in (s3.data / bucket).rglob("*") if path.is_file()]
    assert [str(path.relative_to(s3.data / bucket)) for path in stored] == [WRITE_KEY]


@pytest.mark.parametrize("verb", ["get", "list", "watch", "create", "delete", "update"])
@pytest.mark.parametrize("account", ["kigi-operator", "kigi-node-cache"])
def test_an_account_may_do_no_more_with_secrets(plane: ControlPlane, account: str, verb: str) -> None:
    """The operator reads those of its namespace; a node's daemon none, also not the rendered ones."""
    plane.kubectl("apply", "-f", str(ROOT / "manifests/rbac/node-cache.yaml"))
    for namespace, secret in ((SYSTEM, "writer"), (SYSTEM, DAEMONS), ("kube-system", "any")):
        asked = ["auth", "can-i", verb, f"secrets/{secret}", "-n", namespace]
        try:
            answer = plane.kubectl(*asked, "--as", f"system:serviceaccount:{SYSTEM}:{account}").strip()
        except subprocess.CalledProcessError as exc:
            answer = str(exc.stdout).strip()
        assert answer == ("yes" if (account, verb, namespace) == ("kigi-operator", "get", SYSTEM) else "no")
