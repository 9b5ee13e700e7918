"""The servers that other tests use: they start twice, survive kills, and are removed completely."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session

from localcluster import build
from localcluster.build import BuildFailed, Module
from localcluster.controlplane import ControlPlane, Options
from localcluster.processes import Processes, StartFailed
from localcluster.s3 import READER, ROOT, Credentials, S3Server
from tests.support.cluster import REPOSITORY, eventually

PART = 5 << 20
"""Minimum size in bytes of every part of a multipart upload except the last."""


def processes_below(directory: Path) -> list[str]:
    """Command lines with ``directory``, found in /proc instead of the records."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with suppress(OSError):
                arguments = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(directory) in arguments:
                    found.append(f"{path.name} {arguments}")
    return found


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A separate Python process in the repository's root."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


START = """
import sys, time
from pathlib import Path
from localcluster.controlplane import ControlPlane, Options
ControlPlane(Path(sys.argv[1]), options=Options(detached=sys.argv[2] == "detached")).start()
print("ready", flush=True)
time.sleep(float(sys.argv[3]))
"""


def test_data_and_clients_survive_a_kill_of_the_servers_starter(tmp_path: Path) -> None:
    directory = tmp_path / "plane"
    child = python(START, directory, "bound", 300)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    first = ControlPlane(directory)
    first.kubectl("create", "namespace", "kept")
    kept = first.kubeconfig.read_text()
    assert len(processes_below(directory)) == 3, (
        "the starter, etcd and the API server: else the check below sees nothing"
    )
    kill(child)
    eventually(lambda: not processes_below(directory), 10, "servers end with their starter")
    with ControlPlane(directory) as second:
        assert second.kubectl("get", "namespace", "kept", "-o", "name") == "namespace/kept\n"
        assert second.kubeconfig.read_text() == kept, "whoever was given the kubeconfig finds the server again"
    assert not directory.exists()
    assert processes_below(directory) == []


@pytest.mark.parametrize("seconds", [0.5, 1, 2, 4])
def test_a_killed_start_leaves_no_process_and_can_be_repeated(tmp_path: Path, seconds: float) -> None:
    directory = tmp_path / "plane"
    child = python(START, directory, "bound", 300)
    time.sleep(seconds)  # not a wait for something: the moment of the kill is the case
    kill(child)
    eventually(lambda: not processes_below(directory), 10, "servers end with their starter")
    with ControlPlane(directory) as again:
        assert again.is_ready()
    assert processes_below(directory) == []


@pytest.fixture
def detached(tmp_path: Path) -> Iterator[ControlPlane]:
    directory = tmp_path / "plane"
    child = python(START, directory, "detached", 0)
    assert child.communicate(timeout=120)[0] == "ready\n"
    plane = ControlPlane(directory, options=Options(detached=True))
    yield plane
    plane.delete()
    assert processes_below(directory) == []


def test_a_detached_server_survives_its_starter_and_restarts_ended_processes(detached: ControlPlane) -> None:
    assert detached.is_ready()
    names = ("etcd", "kube-apiserver")
    before = [detached.processes.pid(name) for name in names]
    detached.start()
    assert [detached.processes.pid(name) for name in names] == before, "a second start changes nothing"
    for number in range(5):
        killed = detached.processes.pid("etcd")
        assert killed is not None
        detached.kubectl("create", "configmap", f"kept-{number}")
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: not detached.processes.is_running("etcd"))
        detached.start()
        assert detached.processes.pid("etcd") not in (None, killed)
        assert detached.processes.pid("kube-apiserver") == before[1], "only what died is started"
        kept = eventually(lambda: read_names(detached), 30, "the API server finds etcd again")
        assert f"configmap/kept-{number}" in kept, "what was acknowledged is there"


def read_names(plane: ControlPlane) -> list[str]:
    """Names of ConfigMaps in the default namespace; empty while the API server has no connection to etcd."""
    with suppress(subprocess.CalledProcessError):
        return plane.kubectl("get", "configmaps", "-o", "name").split()
    return []


def whoami(plane: ControlPlane, kubeconfig: Path) -> dict[str, Any]:
    arguments = ("auth", "whoami", "-o", "json", f"--kubeconfig={kubeconfig}")
    info: dict[str, Any] = json.loads(plane.kubectl(*arguments))["status"]["userInfo"]
    return info


def test_the_same_name_with_other_groups_is_another_user(api: ControlPlane) -> None:
    one, two = (api.user_kubeconfig("system:masters", [group]) for group in ("a", "b"))
    assert [whoami(api, path)["groups"] for path in (one, two)] == [
        ["a", "system:authenticated"],
        ["b", "system:authenticated"],
    ]


@pytest.mark.parametrize("name", ["admin", "ca"])
def test_a_user_with_the_name_of_a_server_certificate_gets_none_of_its_rights(api: ControlPlane, name: str) -> None:
    info = whoami(api, api.user_kubeconfig(name))
    assert (info["username"], info["groups"]) == (name, ["system:authenticated"])


def test_a_token_is_bound_to_its_pods_node(api: ControlPlane, namespace: str) -> None:
    api.kubectl("create", "serviceaccount", "daemon", f"--namespace={namespace}")
    api.kubectl(
        "create",
        "-f",
        "-",
        input_text=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace}}),
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "daemon", "namespace": namespace},
        "spec": {"serviceAccountName": "daemon", "nodeName": namespace, "containers": [{"name": "c", "image": "none"}]},
    }
    api.kubectl("create", "-f", "-", input_text=json.dumps(pod))
    bound = ("--bound-object-kind=Pod", "--bound-object-name=daemon")
    info = whoami(api, api.token_kubeconfig(namespace, "daemon", *bound))
    assert info["username"] == f"system:serviceaccount:{namespace}:daemon"
    assert info["extra"]["authentication.kubernetes.io/node-name"] == [namespace]


def test_the_error_of_an_ended_program_has_its_log(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("short", ["sh", "-c", "echo the port is taken; exit 3"])
    with pytest.raises(StartFailed, match=r"(?s)short ended.*the port is taken") as caught:
        processes.wait_until("short", lambda: False, timeout_s=10)
    assert str(tmp_path / "short.log") in str(caught.value)


def test_waiting_for_a_program_that_is_never_ready_ends_at_the_deadline(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("slow", ["sleep", "60"])
    with pytest.raises(StartFailed, match="slow not ready in 0 s"):
        processes.wait_until("slow", lambda: False, timeout_s=0.2)
    processes.stop_all()
    assert processes.names() == []


def test_another_process_with_a_recorded_pid_is_not_killed(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        (tmp_path / "etcd.pid").write_text(json.dumps({"name": "etcd", "pid": stranger.pid, "start_time": 1}))
        assert not processes.is_running("etcd")
        processes.stop("etcd")
        assert stranger.poll() is None
        assert processes.names() == []
    finally:
        stranger.kill()
        stranger.wait()


def test_stop_ends_children_even_if_they_ignore_sigterm(tmp_path: Path) -> None:
    processes = Processes(tmp_path, detached=True)
    script = "trap '' TERM; sh -c \"trap '' TERM; while :; do sleep 0.1; done\" child & while :; do sleep 0.1; done"
    processes.start("stubborn", ["sh", "-c", script, str(tmp_path)])
    pid = processes.pid("stubborn")
    eventually(lambda: len(members(pid)) >= 2, 10)
    Processes(tmp_path, detached=True).stop("stubborn", timeout_s=0.5)
    eventually(lambda: members(pid) == [], 5, "the whole group ends")


def members(group: int | None) -> list[str]:
    """Live processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(path.parent.name)
    return found


def client(server: S3Server, who: Credentials) -> Any:
    return get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=server.endpoint,
        aws_access_key_id=who.access_key,
        aws_secret_access_key=who.secret_key,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def refusal(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """HTTP status and error code of the server's refusal."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer: Any = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_an_object_is_never_overwritten_by_a_conditional_put(s3: S3Server, bucket: str) -> None:
    own = client(s3, ROOT)
    own.put_object(Bucket=bucket, Key="layers/x", Body=b"first", IfNoneMatch="*")
    put = {"Bucket": bucket, "Key": "layers/x", "Body": b"second", "IfNoneMatch": "*"}
    assert refusal(own.put_object, **put) == (412, "PreconditionFailed")
    assert own.get_object(Bucket=bucket, Key="layers/x")["Body"].read() == b"first"


def test_an_object_is_never_overwritten_by_a_conditional_multipart_upload(s3: S3Server, bucket: str) -> None:
    own = client(s3, ROOT)
    where = {"Bucket": bucket, "Key": "layers/m"}
    uploads = [own.create_multipart_upload(**where)["UploadId"] for _ in range(2)]
    finished: list[dict[str, Any]] = []
    for upload, byte in zip(uploads, (b"a", b"b"), strict=True):
        tag = own.upload_part(**where, UploadId=upload, PartNumber=1, Body=byte * PART)["ETag"]
        finished.append({**where, "UploadId": upload, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": tag}]}})
    own.complete_multipart_upload(**finished[0], IfNoneMatch="*")
    assert refusal(own.complete_multipart_upload, **finished[1], IfNoneMatch="*") == (412, "PreconditionFailed")
    assert own.get_object(**where)["Body"].read() == b"a" * PART


def test_an_interrupted_upload_is_found_with_its_parts_after_a_restart(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        where = {"Bucket": server.create_bucket("resumed"), "Key": "layers/m"}
        own = client(server, ROOT)
        upload = own.create_multipart_upload(**where)["UploadId"]
        tag = own.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"a" * PART)["ETag"]
        server.stop()
        server.start()
        assert [one["UploadId"] for one in own.list_multipart_uploads(Bucket="resumed")["Uploads"]] == [upload]
        parts = own.list_parts(**where, UploadId=upload)["Parts"]
        assert [(part["PartNumber"], part["Size"], part["ETag"]) for part in parts] == [(1, PART, tag)]
    assert processes_below(tmp_path) == []


def test_a_range_is_answered_as_a_range(s3: S3Server, bucket: str) -> None:
    own = client(s3, ROOT)
    own.put_object(Bucket=bucket, Key="x", Body=b"0123456789")
    answer = own.get_object(Bucket=bucket, Key="x", Range="bytes=2-4")
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["ContentRange"]) == (206, "bytes 2-4/10")
    assert answer["Body"].read() == b"234"
    assert refusal(own.get_object, Bucket=bucket, Key="x", Range="bytes=20-24") == (416, "InvalidRange")


def test_the_reader_can_only_read_granted_buckets(s3: S3Server, bucket: str) -> None:
    own, reader = client(s3, ROOT), client(s3, READER)
    other = s3.create_bucket(f"{bucket}-other")
    for name in (bucket, other):
        own.put_object(Bucket=name, Key="layers/x", Body=b"kept")
    assert s3.grant_reading(bucket) == READER
    s3.grant_reading(bucket)
    assert reader.get_object(Bucket=bucket, Key="layers/x")["Body"].read() == b"kept"
    assert [one["Key"] for one in reader.list_objects_v2(Bucket=bucket)["Contents"]] == ["layers/x"]
    denied = (403, "AccessDenied")
    x = {"Bucket": bucket, "Key": "layers/x"}
    assert refusal(reader.put_object, **x, Body=b"") == denied
    assert refusal(reader.put_object, Bucket=bucket, Key="layers/new", Body=b"") == denied
    assert refusal(reader.create_multipart_upload, **x) == denied
    assert refusal(reader.delete_object, **x) == denied
    assert refusal(reader.delete_bucket_policy, Bucket=bucket) == denied
    assert refusal(reader.create_bucket, Bucket=f"{bucket}-mine") == denied
    assert refusal(reader.get_object, Bucket=other, Key="layers/x") == denied
    assert own.get_object(**x)["Body"].read() == b"kept"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """A module with one program, and a separate cache."""
    folder = tmp_path / "go" / "tiny"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module example.test/tiny\n\ngo 1.24\n")
    (folder / "go.sum").write_text("")
    (folder / "main.go").write_text('package main\n\nfunc main() { println("tiny") }\n')
    monkeypatch.setenv("KIGI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_GO", tmp_path / "go")
    module = Module("tiny", (("tiny", "example.test/tiny"),))
    monkeypatch.setattr(build, "_MODULE_OF", {"tiny": module})
    return module


BUILD = """
import sys
from pathlib import Path
from localcluster import build
build._GO = Path(sys.argv[1])
build._MODULE_OF = {"tiny": build.Module("tiny", (("tiny", "example.test/tiny"),))}
print(build.binary("tiny"))
"""


def test_two_processes_build_a_program_once(tiny: Module, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path / "go")]
    both = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [each.communicate(timeout=200) for each in both]
    assert len({out for out, _ in answers}) == 1
    assert sum(err.count("building tiny") for _, err in answers) == 1
    path = Path(answers[0][0].strip())
    assert subprocess.run([path], capture_output=True, text=True, check=True).stderr == "tiny\n"


def test_a_failed_build_has_the_compilers_errors_and_leaves_no_program(tiny: Module, tmp_path: Path) -> None:
    source = tmp_path / "go" / "tiny" / "main.go"
    right = source.read_text()
    source.write_text("package main\n\nfunc main() { undefinedName() }\n")
    with pytest.raises(BuildFailed, match="undefined: undefinedName") as caught:
        build.binary("tiny")
    assert str(build.directory(tiny).with_suffix(".log")) in str(caught.value)
    assert not build.directory(tiny).exists()
    source.write_text(right)
    assert build.binary("tiny").exists()


def test_another_pinned_version_is_another_program(tiny: Module, tmp_path: Path) -> None:
    before = build.directory(tiny)
    (tmp_path / "go" / "tiny" / "go.sum").write_text("example.test/other v1.0.0 h1:x=\n")
    assert build.directory(tiny) != before
