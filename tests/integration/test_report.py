"""``kigi report`` on a real API server: secrets are planted in every place, and searched for in the archive."""

from __future__ import annotations

import base64
import http.server
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kigi.cli import support_archive
from kigi.cli.main import app
from kigi.doctor.redaction import REMOVED, encodings
from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.campaigns.stolen_s3 import USERS, prepare
from tests.support.healthy_installation import (
    CACHES,
    DEPLOYMENTS,
    NODES,
    POD_ACCOUNT,
    PODS,
    REPOSITORIES,
    SECRETS,
    SYSTEM,
    Installation,
)
from tests.support.pod_api import Authority

NAMESPACE = "class-1"
WRITER = USERS["writer"].secret_key
TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLW9mLWEtdG9rZW4"
LAST = "kubectl.kubernetes.io/last-applied-configuration"
PLANTED = [
    f"planted-{place}-8d3f1c"
    for place in (
        "secret",
        "users-secret",
        "json-key",
        "last-applied",
        "annotation",
        "label",
        "user-data",
        "network-data",
        "patch",
        "description",
        "reason",
        "signed-url",
        "authorization",
        "environment",
        "argument",
        "vm-user-data",
        "own-environment",
        "userinfo",
        "password",
        "query",
        "key-file",
    )
]
SECRET_OF = {each.split("-", 1)[1].removesuffix("-8d3f1c"): each for each in PLANTED}
LOG = f"""{{"level":"INFO","message":"started"}}
stored with {WRITER}
again {base64.b64encode(f"user:{WRITER}".encode()).decode()}
once more https://s3/?key={SECRET_OF["query"]}&X-Amz-Signature={SECRET_OF["signed-url"]}
{{"secretAccessKey": "{SECRET_OF["json-key"]}", "bucket": "kept-in-the-log"}}
Authorization: Bearer {TOKEN}
-----BEGIN PRIVATE KEY-----
{base64.b64encode(SECRET_OF["key-file"].encode()).decode()}
-----END PRIVATE KEY-----
the last line
"""


class Kubelet:
    """Answers requests for logs, as a kubelet does to the API server."""

    def __init__(self, folder: Path) -> None:
        text = LOG.encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = Authority("kubelet").context(folder).wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("report")
    kubelet = Kubelet(folder)
    with S3Server(folder / "s3", versions=True) as s3, ControlPlane(folder / "plane") as plane:
        prepare(s3)
        kigi = Installation(plane, s3).install()
        plant(kigi, kubelet.server.server_address[1])
        yield kigi
    kubelet.stop()


def plant(kigi: Installation, kubelet_port: int) -> None:
    """Puts a secret in every place that has one in some cluster."""
    plant_secrets(kigi)
    plant_in_objects(kigi)
    addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
    endpoints = {"kubeletEndpoint": {"Port": kubelet_port}}
    kigi.put_status(f"/api/v1/nodes/{NODES[0]}", {"addresses": addresses, "daemonEndpoints": endpoints})
    plant_in_workloads(kigi)
    plant_in_events(kigi)


def plant_secrets(kigi: Installation) -> None:
    kigi.plane.kubectl("create", "namespace", NAMESPACE)
    repositories = json.dumps({"main": {"endpoint": "http://s3.kept", "secret_access_key": SECRET_OF["json-key"]}})
    for path, name, value in (
        (SECRETS, "other", SECRET_OF["secret"]),
        (SECRETS, "repositories", repositories),
        (f"/api/v1/namespaces/{NAMESPACE}/secrets", "vm", SECRET_OF["users-secret"]),
    ):
        data = {"key": base64.b64encode(value.encode()).decode()}
        kigi.api.create(path, {"metadata": {"name": name}, "data": data}).object()


def plant_in_objects(kigi: Installation) -> None:
    annotations = {LAST: json.dumps({"p": SECRET_OF["last-applied"]}), "example.org/note": SECRET_OF["annotation"]}
    meta = {"annotations": annotations, "labels": {"team": SECRET_OF["label"]}}
    cloud = {"userData": f"#cloud-config\npassword: {SECRET_OF['user-data']}", "networkData": SECRET_OF["network-data"]}
    merge = {"spec": {"domain": {"firmware": {"serial": SECRET_OF["patch"]}}}}
    disk = {"imageRef": {"name": "base"}}
    machine = {"name": "mail1", "rootDisk": disk, "hardware": {"cloudInit": cloud}, "patch": {"merge": merge}}
    objects = {
        "systemnodes": ("SystemNode", {"machines": [machine], "description": SECRET_OF["description"]}),
        "systemresets": (
            "SystemReset",
            {"deploymentRef": {"name": "office"}, "reason": SECRET_OF["reason"], "requestedBy": "admin"},
        ),
    }
    for plural, (kind, spec) in objects.items():
        path = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/{plural}"
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "office", **meta}, "spec": spec}
        reply = kigi.api.create(path, body)
        assert reply.code in (200, 201), reply.message
    kigi.api.patch(f"{REPOSITORIES}/main", {"metadata": meta}).object()
    request = {
        "url": f"https://s3/k?X-Amz-Signature={SECRET_OF['signed-url']}",
        "time": "20260101T000000Z",
        "authorization": f"AWS4-HMAC-SHA256 Signature={SECRET_OF['authorization']}",
    }
    digest = "sha256:" + "1" * 64
    order = {
        "id": "c1",
        "volume": "kigi.x",
        "parentDigest": digest,
        "virtualSizeBytes": 512,
        "repositoryName": "main",
        "action": "Keep",
        "mounted": True,
        "upload": {"digest": digest, "sizeBytes": 1, "request": request},
    }
    kigi.api.patch(f"{CACHES}/{NODES[0]}", {"spec": {"captures": [order]}}).object()


def plant_in_workloads(kigi: Installation) -> None:
    container = {
        "name": "cache",
        "image": "registry.example/kigi:0.1.0",
        "env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": SECRET_OF["environment"]}],
        "args": ["--password", SECRET_OF["argument"]],
    }
    pod = kigi.pod("kigi-node-cache-1", NODES[0], labels={}, statuses=[])
    kigi.api.create(PODS, {**pod, "spec": {"nodeName": NODES[0], "containers": [container], **POD_ACCOUNT}}).object()
    kigi.plane.kubectl("-n", SYSTEM, "set", "env", "deployment/kigi-operator", f"PASSWORD={SECRET_OF['environment']}")
    volume = {"name": "c", "cloudInitNoCloud": {"userData": SECRET_OF["vm-user-data"]}}
    domain: dict[str, Any] = {"devices": {}}
    vm = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "office-1-mail1", "labels": {"kigi.dev/deployment": "office"}},
        "spec": {"runStrategy": "Always", "template": {"spec": {"domain": domain, "volumes": [volume]}}},
    }
    kigi.api.create(f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachines", vm).object()


def plant_in_events(kigi: Installation) -> None:
    notes = (
        f"login to http://robot:{SECRET_OF['userinfo']}@s3.example failed; kept-in-the-event",
        f"password={SECRET_OF['password']} is wrong",
        f"refused {base64.b64encode(f'x{WRITER}'.encode()).decode()} and {SECRET_OF['own-environment']}",
        f"Secret {SECRET_OF['secret']} as hexadecimal {SECRET_OF['secret'].encode().hex()}",
    )
    for number, note in enumerate(notes):
        body = {
            "metadata": {"name": f"note-{number}"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "type": "Warning",
            "reason": "Failed",
            "note": note,
            "action": "Try",
            "reportingController": "test",
            "reportingInstance": "test",
            "regarding": {"kind": "Pod", "name": "kigi-node-cache-1", "namespace": SYSTEM, "apiVersion": "v1"},
        }
        kigi.api.create(f"/apis/events.k8s.io/v1/namespaces/{SYSTEM}/events", body).object()


def report(kubeconfig: Path, file: Path, *arguments: str) -> tuple[dict[str, str], str]:
    """Members of the archive by name below its folder, and the messages."""
    environment = {"AWS_ACCESS_KEY_ID": None, "MY_PASSWORD": SECRET_OF["own-environment"]}
    command = ["report", "--to", str(file), "--kubeconfig", str(kubeconfig), *arguments]
    done = CliRunner().invoke(app, command, env=environment)
    assert done.exit_code == 0, (done.output, done.exception)
    with tarfile.open(file) as tar:
        members = {info.name.partition("/")[2]: info for info in tar.getmembers()}
        return {
            name: tar.extractfile(info).read().decode()  # type: ignore[union-attr]
            for name, info in members.items()
        }, done.stderr


@pytest.fixture(scope="module")
def archive(planted: Installation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    planted.beat()
    file = tmp_path_factory.mktemp("archive") / "report.tar.gz"
    members, _ = report(planted.plane.kubeconfig, file)
    assert file.stat().st_mode & 0o077 == 0, "readable by its owner alone"
    return members


def decoded(text: str) -> Iterator[str]:
    """What base64 in the text has, with and without its first digits."""
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        for start in range(4):
            digits = run[start:].replace("-", "+").replace("_", "/")
            whole = digits[:-1] if len(digits) % 4 == 1 else digits
            yield base64.b64decode(whole + "=" * (-len(whole) % 4)).decode(errors="replace")


def secrets_of(planted: Installation) -> list[str]:
    key = next(Path(planted.plane.directory / "pki").glob("user-admin*.key"), None)
    own = key.read_text().splitlines()[1:-1] if key is not None else []
    return [*PLANTED, WRITER, USERS["reader"].secret_key, TOKEN, *own]


def test_no_secret_is_in_the_archive_in_any_encoding(planted: Installation, archive: dict[str, str]) -> None:
    for name, text in archive.items():
        for secret in secrets_of(planted):
            for form in encodings(secret):
                assert form not in text, (name, secret)
        inside = "\n".join(decoded(text))
        for secret in secrets_of(planted):
            assert secret not in inside, (name, secret)


def test_each_planted_secret_was_there_to_be_found(planted: Installation) -> None:
    """The search itself: the API server has every secret that the archive lacks."""
    kinds = "secrets,systemnodes,systemresets,layerrepositories,nodecaches,pods,deployments,virtualmachines,events"
    everything = planted.plane.kubectl("get", kinds, "-A", "-o", "json") + LOG
    everything += "\n".join(decoded(everything))
    assert [secret for secret in (*PLANTED, WRITER, TOKEN) if secret not in everything] == []


def test_what_helps_is_there(archive: dict[str, str]) -> None:
    assert archive["missing.txt"].splitlines() == ["nothing"]
    assert {each["check"] for each in json.loads(archive["doctor.json"])} >= {"kubernetes", "nodes", "clocks"}
    versions = json.loads(archive["versions.json"])
    assert versions["daemons"] == dict.fromkeys(NODES, versions["kigi"])
    assert versions["operator"] == versions["kigi"]
    (state,) = json.loads(archive["objects/systemnodes.json"])
    assert state["metadata"]["name"] == "office"
    assert state["spec"]["machines"][0]["patch"] == REMOVED
    assert state["spec"]["machines"][0]["hardware"]["cloudInit"]["userData"] == REMOVED
    log = archive["logs/kigi-node-cache-1_cache.log"]
    assert "kept-in-the-log" in log
    assert log.splitlines()[-1] == "the last line"
    assert "kept-in-the-event" in archive["events.json"]
    assert "objects/secrets.json" not in archive
    (deployment,) = json.loads(archive["objects/deployments.json"])
    assert deployment["status"]["readyReplicas"] == 2
    caches = json.loads(archive["objects/nodecaches.json"])
    assert caches[0]["spec"]["captures"][0]["upload"]["request"] == REMOVED


def test_with_few_rights_the_archive_has_less_and_says_what_is_missing(planted: Installation, tmp_path: Path) -> None:
    planted.plane.kubectl("create", "rolebinding", "vic", "-n", NAMESPACE, "--clusterrole=view", "--user=vic")
    kubeconfig = planted.plane.user_kubeconfig("vic", ["system:authenticated"])
    members, messages = report(kubeconfig, tmp_path / "few.tar.gz", "-n", NAMESPACE)
    missing = members["missing.txt"]
    assert "objects/nodecaches.json: you may not list nodecaches.node.kigi.dev in the whole cluster" in missing
    assert f"objects/pods.json: you may not list pods in namespace {SYSTEM}" in missing
    assert "events.json: you may not list events.events.k8s.io in the whole cluster" in missing
    assert "parts are missing" in messages
    assert {"README.txt", "doctor.json", "versions.json"} <= set(members)


def test_the_archive_is_bounded(planted: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.beat()
    monkeypatch.setattr(support_archive, "MAX_MEMBER_BYTES", 3000)
    monkeypatch.setattr(support_archive, "MAX_BYTES", 10_000)
    members, _ = report(planted.plane.kubeconfig, tmp_path / "small.tar.gz")
    parts = {name: text for name, text in members.items() if name not in ("README.txt", "missing.txt")}
    assert max(len(text.encode()) for text in parts.values()) <= 3000
    assert sum(len(text.encode()) for text in parts.values()) <= 10_000
    assert "all after the first 3000 bytes" in members["missing.txt"]
    assert "size limit of 10000 bytes" in members["missing.txt"]


def test_an_existing_file_is_not_replaced(planted: Installation, tmp_path: Path) -> None:
    file = tmp_path / "there.tar.gz"
    file.write_bytes(b"mine")
    done = CliRunner().invoke(app, ["report", "--to", str(file), "--kubeconfig", str(planted.plane.kubeconfig)])
    assert "exists already" in str(done.exception)
    assert file.read_bytes() == b"mine"


def test_an_archive_reads_as_a_tar_file_with_one_folder() -> None:
    from kigi.doctor.redaction import Redactor

    made = support_archive.Archive(Redactor(["very-secret"]))
    made.add("a.txt", "x very-secret y")
    made.missing.append("b: token=very-secret")
    with tarfile.open(fileobj=io.BytesIO(made.packed("kigi-report"))) as tar:
        assert {name.partition("/")[0] for name in tar.getnames()} == {"kigi-report"}
        texts = [tar.extractfile(info).read().decode() for info in tar.getmembers()]  # type: ignore[union-attr]
    assert not any("very-secret" in text for text in texts)
    assert f"{DEPLOYMENTS}" not in texts
