"""``kigi repository check`` on a real S3 server: good and bad buckets, with the credentials of different users."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.controlplane import ControlPlane
from localcluster.s3 import ROOT, S3Server
from tests.campaigns.stolen_s3 import SETUPS, USERS, prepare
from tests.support.answering import AnsweringServer
from tests.support.command import Site
from tests.support.raw_api import RawApi

PLAIN, PROTECTED = SETUPS
OWNER = {"AWS_ACCESS_KEY_ID": ROOT.access_key, "AWS_SECRET_ACCESS_KEY": ROOT.secret_key}


def of(user: str, role: str) -> dict[str, str]:
    """Environment in which that user has a role: AWS, KIGI_READER or KIGI_WRITER."""
    keys = ROOT if user == "owner" else USERS[user]
    return {f"{role}_ACCESS_KEY_ID": keys.access_key, f"{role}_SECRET_ACCESS_KEY": keys.secret_key}


ALL = {**OWNER, **of("reader", "KIGI_READER"), **of("writer", "KIGI_WRITER")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """With the buckets and users of the campaign of a stolen node."""
    with S3Server(tmp_path_factory.mktemp("check"), versions=True) as started:
        prepare(started)
        yield started


def check(endpoint: str, bucket: str, *arguments: str, **environment: str) -> tuple[int, dict[str, str], str]:
    """Exit code, verdicts by name, and what else was printed."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "KIGI_"))}
    command = [sys.executable, "-m", "kigi.cli.main", "repository", "check", *arguments]
    if endpoint:
        command += ["--endpoint", endpoint, "--bucket", bucket]
    done = subprocess.run([*command, "-o", "json"], env={**clean, **environment}, capture_output=True, text=True)
    points: list[dict[str, str]] = json.loads(done.stdout)["points"] if done.stdout else []
    assert all(point["remedy"] or point["verdict"] == "ok" for point in points), "each other verdict has a remedy"
    return done.returncode, {point["name"]: point["verdict"] for point in points}, done.stderr


def keys(server: S3Server, bucket: str) -> set[str]:
    root = server.data / bucket
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_protected_bucket_is_ok_in_each_point_and_gets_one_empty_object(server: S3Server) -> None:
    before = keys(server, PROTECTED)
    for _ in range(2):
        code, found, messages = check(server.endpoint, PROTECTED, **ALL)
        assert (code, set(found.values()), messages) == (0, {"ok"}, "")
        assert len(found) == 8
    assert {key for key in keys(server, PROTECTED) - before if ".sgwtmp" not in key} == {"layers/kigi-write-probe"}


def test_a_plain_bucket_lacks_versions_and_object_lock(server: S3Server) -> None:
    code, found, _ = check(server.endpoint, PLAIN, **ALL)
    assert code == 3
    assert {name for name, verdict in found.items() if verdict != "ok"} == {"versioning", "object lock"}
    assert {found["versioning"], found["object lock"]} == {"not ok"}


def test_users_that_may_do_too_much_are_found(server: S3Server) -> None:
    mixed_up = {**OWNER, **of("writer", "KIGI_READER"), **of("owner", "KIGI_WRITER")}
    code, found, _ = check(server.endpoint, PROTECTED, **mixed_up)
    assert code == 3
    bad = {name for name, verdict in found.items() if verdict == "not ok"}
    assert bad == {"reader may not write", "writer may not delete", "writer may not delete versions"}
    assert found["reader may not delete"] == "ok"


def test_what_a_user_may_not_ask_is_unknown_and_no_failure(server: S3Server) -> None:
    code, found, _ = check(server.endpoint, PLAIN, **of("writer", "AWS"))
    assert code == 0
    assert found["stored layers are not replaced"] == found["only signed content is stored"] == "ok"
    assert found["versioning"] == found["object lock"] == found["reader may not write"] == "unknown"
    code, found, _ = check(server.endpoint, PLAIN, **of("reader", "AWS"))
    assert (code, set(found.values())) == (0, {"unknown"})


def test_without_credentials_or_a_bucket_the_error_names_what_is_missing(server: S3Server) -> None:
    code, found, messages = check(server.endpoint, PLAIN)
    assert (code, found) == (1, {})
    assert "set AWS_ACCESS_KEY_ID" in messages
    code, found, messages = check(server.endpoint, "no-such-bucket", **ALL)
    assert (code, found) == (1, {})
    assert "RepositoryUnknown" in messages
    assert "bucket no-such-bucket does not exist" in messages
    code, found, messages = check("http://127.0.0.1:9", PLAIN, **ALL)
    assert (code, found) == (4, {})
    assert "RepositoryUnreachable" in messages


def test_credentials_that_are_wrong_are_unknown_and_not_harmless(server: S3Server) -> None:
    wrong = {"KIGI_READER_ACCESS_KEY_ID": "unknown", "KIGI_READER_SECRET_ACCESS_KEY": "x"}
    _, found, _ = check(server.endpoint, PROTECTED, **{**ALL, **wrong})
    assert found["reader may not write"] == found["reader may not delete"] == "unknown"


def test_a_server_that_takes_everything_is_not_ok() -> None:
    """No server of the tests is that bad: this one answers 200 to each request."""
    with AnsweringServer(lambda method, path: (200, b"")) as bad:
        code, found, _ = check(bad.url, "kigi-bad", **ALL)
    assert code == 3
    assert found["stored layers are not replaced"] == found["only signed content is stored"] == "not ok"
    assert found["reader may not write"] == found["writer may not delete"] == "not ok"
    assert found["versioning"] == found["object lock"] == "not ok"


@pytest.fixture
def named(crds: ControlPlane, server: S3Server, namespace: str, tmp_path: Path) -> Site:
    """A LayerRepository ``checked`` of the protected bucket, and its Secrets in ``namespace``."""
    site = Site(crds, namespace, server, PROTECTED, tmp_path)
    api = RawApi(crds.kubeconfig)
    for user, keys_ in USERS.items():
        data = {"accessKeyId": keys_.access_key, "secretAccessKey": keys_.secret_key}
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": user}, "data": encoded}).object()
    crds.kubectl("delete", "layerrepository", "checked", "--ignore-not-found")
    names = {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}}
    site.repository("checked", credentials=names)
    return site


def test_a_repository_of_the_cluster_is_checked_with_the_users_of_its_secrets(named: Site) -> None:
    kubeconfig = {"KUBECONFIG": str(named.plane.kubeconfig)}
    arguments = ["checked", "--kigi-namespace", named.namespace]
    code, found, messages = check("", "", *arguments, **kubeconfig, **OWNER)
    assert (code, set(found.values()), messages) == (0, {"ok"}, "")
    code, found, _ = check("", "", *arguments, **kubeconfig)
    assert found["versioning"] == "unknown", "asked as the writer"
    assert found["writer may not delete"] == found["reader may not write"] == "ok"
    code, found, messages = check("", "", "checked", "--kigi-namespace", "default", **kubeconfig, **OWNER)
    assert "Secret default/writer does not exist" in messages
    assert found["writer may not delete"] == "unknown"
    code, found, messages = check("", "", "no-such", **kubeconfig, **OWNER)
    assert (code, found) == (1, {})
    assert "there is no LayerRepository no-such" in messages


def test_secrets_that_the_caller_may_not_read_leave_points_unknown(named: Site) -> None:
    named.plane.kubectl(
        "create", "clusterrole", "see-repositories", "--verb=get", "--resource=layerrepositories.kigi.dev"
    )
    named.plane.kubectl(
        "create", "clusterrolebinding", "see-repositories", "--clusterrole=see-repositories", "--user=eve"
    )
    eve = {"KUBECONFIG": str(named.plane.user_kubeconfig("eve", ["system:authenticated"]))}
    code, found, messages = check("", "", "checked", "--kigi-namespace", named.namespace, **eve, **OWNER)
    assert code == 0
    assert f"Secret {named.namespace}/reader is not read" in messages
    assert found["reader may not write"] == "unknown"


def test_the_table_is_for_people_and_has_no_secret(server: S3Server) -> None:
    command = [sys.executable, "-m", "kigi.cli.main", "repository", "check"]
    command += ["--endpoint", server.endpoint, "--bucket", PLAIN]
    done = subprocess.run(command, env={**os.environ, **ALL}, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["POINT", "VERDICT", "FOUND", "REMEDY"]
    assert any(line.startswith("versioning") and "not ok" in line and "enable versioning" in line for line in lines)
    assert not any(keys_.secret_key in done.stdout + done.stderr for keys_ in (ROOT, *USERS.values()))
