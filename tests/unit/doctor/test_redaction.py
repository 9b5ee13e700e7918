"""A support archive has no secret: neither a known one in any encoding, nor what looks like one."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.doctor.projection import project, project_event
from kigi.doctor.redaction import REMOVED, Redactor, values_within

SECRET = "p@ss/w0rd+ünd=Geheim"


@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=12, max_size=40),
    before=st.binary(max_size=20),
    after=st.binary(max_size=20),
)
def test_a_known_value_is_removed_in_any_encoding(secret: str, before: bytes, after: bytes) -> None:
    redactor = Redactor([secret])
    data = before + secret.encode() + after
    for text in (
        f"password is {secret}!",
        f"url?x={quote(secret, safe='')}&y",
        f"url?x={quote_plus(secret)}&y",
        json.dumps({"k": f"a{secret}b"}),
        json.dumps({"k": f"a{secret}b"}, ensure_ascii=False),
        secret.encode().hex(),
    ):
        assert secret not in redactor.known(text)
        assert REMOVED in redactor.known(text), text
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        blob = encode(data).decode()
        shown = redactor.known(blob)
        assert REMOVED in shown
        # What is left has at most the digits at both ends, which have a part of the value's first and last byte.
        assert len(shown.replace(REMOVED, "")) <= len(blob) - (len(secret.encode()) * 4 // 3 - 4)


@pytest.mark.parametrize(
    ("text", "kept", "gone"),
    [
        ("GET https://s3/b/k?X-Amz-Signature=abc123&x=1", "x=1", "abc123"),
        ("PUT https://s3/k?X-Amz-Credential=AKID%2F2026&X-Amz-Date=2", "X-Amz-Date=2", "AKID"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=AK/2026, SignedHeaders=host, Signature=0a1b", "host", "0a1b"),
        ("Authorization: Bearer abcdef123456", "Authorization", "abcdef123456"),
        ("http://user:hunter22@s3.example/x", "s3.example", "hunter22"),
        ("token eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrIn0.c2ln and more", "and more", "eyJ"),
        ("key AKIAIOSFODNN7EXAMPLE is unknown", "is unknown", "AKIA"),
        ('{"password": "hunter22", "user": "root"}', "root", "hunter22"),
        ('{\\"secretAccessKey\\":\\"hunter22\\",\\"bucket\\":\\"kigi\\"}', "kigi", "hunter22"),
        ("export AWS_SECRET_ACCESS_KEY=hunter22; go", "go", "hunter22"),
        ("db_password: hunter22", "db_password", "hunter22"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----\nnext", "next", "MHcCAQ"),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQ", REMOVED, "MHcCAQ"),
        ("user data: #cloud-config\nchpasswd: {list: root:hunter22}", "user data", "hunter22"),
    ],
)
def test_what_looks_like_a_secret_is_removed(text: str, kept: str, gone: str) -> None:
    shown = Redactor().text(text)
    assert gone not in shown
    assert kept in shown


@pytest.mark.parametrize(
    "text",
    [
        "LayersWarming: 3 of 7 layers (1.2 of 4.0 GiB) on node-b",
        "layer sha256:7d0c4bd1ba4ab1b8d0a4bd1ba4ab1b8d0a4bd1ba4ab1b8d0a4bd1ba4ab1b8d0a",
        "Secret kigi-system/reader does not exist, or lacks accessKeyId or secretAccessKey",
        "http://s3.example:9000: bucket kigi does not exist",
        "serviceaccounts/kigi-operator cannot list resource pods",
    ],
)
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    assert Redactor().text(text) == text


def test_texts_of_fields_with_a_secrets_name_are_removed_and_references_stay() -> None:
    value = {"token": "x1", "readerSecretRef": {"name": "reader"}, "secretName": "writer", "list": [{"apiKey": "x1"}]}
    assert Redactor().tree(value) == {**value, "token": REMOVED, "list": [{"apiKey": REMOVED}]}


def test_parts_of_a_secrets_value_are_known() -> None:
    text = json.dumps({"endpoint": "http://s3", "access_key_id": "AK-1234567", "more": [{"secret_access_key": SECRET}]})
    values = set(values_within(text))
    assert {"AK-1234567", SECRET} <= values
    assert "http://s3" not in values
    assert set(values_within("one-line-1\n  two-line-2")) >= {"one-line-1", "two-line-2"}


def test_short_values_are_not_searched_for() -> None:
    assert Redactor(["", "kigi"]).known("kigi-system") == "kigi-system"


# Objects.

HIDDEN = "hidden-7c1"


def test_an_object_of_kigi_loses_users_content() -> None:
    body = {
        "apiVersion": "kigi.dev/v1alpha2",
        "metadata": {
            "name": "office",
            "labels": {"kigi.dev/x": "1", "team": HIDDEN},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": HIDDEN, "kigi.dev/template-hash": "h"},
            "managedFields": [{"manager": HIDDEN}],
        },
        "spec": {
            "description": HIDDEN,
            "machines": [
                {
                    "name": "mail1",
                    "patch": {"merge": {"spec": {"a": HIDDEN}}},
                    "hardware": {"cloudInit": {"userData": HIDDEN, "networkData": HIDDEN}, "cpu": {"cores": 2}},
                }
            ],
        },
        "status": {"conditions": [{"type": "Ready", "message": "fine"}]},
    }
    shown = project("SystemNode", body)
    assert HIDDEN not in json.dumps(shown)
    assert shown["spec"]["machines"][0]["name"] == "mail1"
    assert shown["spec"]["machines"][0]["hardware"]["cpu"] == {"cores": 2}
    assert shown["metadata"]["labels"] == {"kigi.dev/x": "1", "team": REMOVED}
    assert shown["metadata"]["annotations"] == {"kigi.dev/template-hash": "h"}
    assert shown["status"] == body["status"]


def test_a_signed_request_of_a_node_cache_is_removed() -> None:
    request = {"url": f"https://s3/{HIDDEN}", "time": "t", "authorization": HIDDEN}
    orders = [{"id": "c1", "upload": {"digest": "sha256:1", "request": request, "parts": [{"request": request}]}}]
    body = {"apiVersion": "node.kigi.dev/v1alpha1", "metadata": {"name": "n"}, "spec": {"captures": orders}}
    shown = project("NodeCache", body)
    assert HIDDEN not in json.dumps(shown)
    assert shown["spec"]["captures"][0]["upload"]["digest"] == "sha256:1"


def test_other_kinds_keep_listed_fields_only() -> None:
    pod = {
        "apiVersion": "v1",
        "metadata": {"name": "p"},
        "spec": {
            "nodeName": "n",
            "containers": [{"name": "c", "image": "kigi:1", "env": [{"name": "A", "value": HIDDEN}], "args": [HIDDEN]}],
            "volumes": [{"name": HIDDEN}],
        },
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 3}]},
    }
    shown = project("Pod", pod)
    assert HIDDEN not in json.dumps(shown)
    assert shown["spec"] == {"nodeName": "n", "containers": [{"name": "c", "image": "kigi:1"}]}
    vm = {
        "apiVersion": "kubevirt.io/v1",
        "metadata": {"name": "vm"},
        "spec": {
            "runStrategy": "Always",
            "template": {"spec": {"volumes": [{"cloudInitNoCloud": {"userData": HIDDEN}}]}},
        },
        "status": {"printableStatus": "Running", "volumeSnapshotStatuses": [HIDDEN]},
    }
    assert HIDDEN not in json.dumps(project("VirtualMachine", vm))
    assert HIDDEN not in json.dumps(project("Unheard", {**vm, "kind": "Unheard"}))


def test_an_event_keeps_its_note_and_what_it_is_about() -> None:
    event = {"metadata": {"namespace": "a"}, "note": "failed", "regarding": {"kind": "Pod", "name": "p", "uid": "u"}}
    assert project_event(event) == {
        "namespace": "a",
        "note": "failed",
        "regarding": {"kind": "Pod", "name": "p"},
    }
