"""The command line's client against a server with given answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kigi.adapters.kubernetes.endpoint import Endpoint
from kigi.adapters.kubernetes.http_connection import ssl_context
from kigi.adapters.kubernetes.resources import DEPLOYMENT, SYSTEM
from kigi.adapters.kubernetes.session import KubeSession
from kigi.errors import Conflict, Forbidden, SpecInvalid, Throttled, Unreachable, Waiting
from tests.support.answering import AnsweringServer


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with AnsweringServer() as made:
        yield made


@pytest.fixture
def kube(server: AnsweringServer) -> Iterator[KubeSession]:
    with KubeSession(Endpoint(server.url, token="t"), manager="me", timeout_s=5) as session:
        yield session


def test_pages_are_read_one_after_another_over_one_connection(server: AnsweringServer, kube: KubeSession) -> None:
    page = {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
    server.answers = [(200, page), (200, {"metadata": {}, "items": [{"metadata": {"name": "b"}}]})]
    found = list(kube.list_all(DEPLOYMENT, "ns"))
    assert [(body["metadata"]["name"], body["kind"]) for body in found] == [
        ("a", DEPLOYMENT.kind),
        ("b", DEPLOYMENT.kind),
    ]
    assert "continue=more" in server.asked[1][1]
    assert server.asked[0][1].startswith("/apis/kigi.dev/v1alpha2/namespaces/ns/systemdeployments?limit=")
    assert server.asked[0][2]["Authorization"] == "Bearer t"
    assert server.connections == 1


def test_what_is_not_there_is_none_and_a_kind_that_is_not_served_has_no_objects(
    server: AnsweringServer, kube: KubeSession
) -> None:
    server.answers = [(404, {}), (404, {})]
    assert kube.get(SYSTEM, "ns", "x") is None
    assert list(kube.list_all(SYSTEM)) == []


def test_a_name_that_is_none_is_asked_for_as_it_is(server: AnsweringServer, kube: KubeSession) -> None:
    server.answers = [(404, {}), (404, {}), (404, {})]
    for name in ("a b?c", "ä\n", "\ud800"):
        assert kube.get(SYSTEM, "ns", name) is None
    assert [path.rpartition("/")[2] for _, path, _, _ in server.asked] == ["a%20b%3Fc", "%C3%A4%0A", "%3F"]


def test_writes_name_their_manager(server: AnsweringServer, kube: KubeSession) -> None:
    body = {"metadata": {"name": "x", "namespace": "ns"}, "spec": {}}
    server.answers = [(201, body), (200, body), (200, body), (200, {"kind": "Status"}), (409, {"message": "uid"})]
    kube.create(SYSTEM, body, dry_run=True)
    kube.replace(SYSTEM, body)
    kube.apply(SYSTEM, "ns", body)
    assert kube.delete(SYSTEM, "ns", "x", uid="7") is None
    assert kube.delete(SYSTEM, "ns", "x", uid="8") is None
    methods = [(method, path.partition("?")[2]) for method, path, _, _ in server.asked]
    assert methods[:3] == [
        ("POST", "fieldManager=me&dryRun=All"),
        ("PUT", "fieldManager=me"),
        ("PATCH", "fieldManager=me&force=true"),
    ]
    assert server.asked[2][2]["Content-Type"] == "application/apply-patch+yaml"
    assert server.asked[3][3]["preconditions"] == {"uid": "7"}


@pytest.mark.parametrize(
    ("status", "answer", "error", "words"),
    [
        (401, {"message": "Unauthorized"}, SpecInvalid, "does not accept the kubeconfig's credentials; log in again"),
        (403, {"message": 'User "u" cannot get resource "x"'}, Forbidden, 'User "u" cannot'),
        (409, {"message": "modified"}, Conflict, "modified"),
        (500, b"<html>", Unreachable, "<html>"),
    ],
)
def test_each_refusal_is_an_error_with_its_message(
    server: AnsweringServer, kube: KubeSession, status: int, answer: Any, error: type[Exception], words: str
) -> None:
    server.answers = [(status, answer)]
    with pytest.raises(error, match=words):
        kube.get(SYSTEM, "ns", "x")


def test_a_write_to_what_is_not_there_waits_for_it(server: AnsweringServer, kube: KubeSession) -> None:
    server.answers = [(404, {"message": "namespace"}), (404, {})]
    with pytest.raises(Waiting, match="namespace"):
        kube.create(SYSTEM, {"metadata": {"name": "x", "namespace": "ns"}})
    with pytest.raises(Waiting, match="is Kigi installed"):
        kube.apply(SYSTEM, "ns", {"metadata": {"name": "x"}})


def test_a_server_that_does_not_answer_is_one_sentence() -> None:
    with (
        KubeSession(Endpoint("http://127.0.0.1:1"), manager="me") as session,
        pytest.raises(
            Unreachable,
            match=r"http://127.0.0.1:1: the API server does not answer: Connection refused; is the cluster up",
        ),
    ):
        session.get(SYSTEM, "ns", "x")


def test_several_groups_and_a_password_are_passed_on(server: AnsweringServer) -> None:
    groups = (("Impersonate-User", "eve"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b"))
    with KubeSession(Endpoint(server.url, password=("u", "p"), impersonated=groups), manager="me") as session:
        server.answers = [(200, {})]
        session.get(SYSTEM, "ns", "x")
    headers = server.asked[0][2]
    assert headers["Authorization"] == "Basic dTpw"
    assert headers["Impersonate-User"] == "eve"


def test_damaged_certificates_are_reported() -> None:
    with pytest.raises(SpecInvalid, match="certificate-authority is no PEM"):
        ssl_context(Endpoint("https://x", ca=b"nothing"))
    with pytest.raises(SpecInvalid, match="no pair of PEM; log in again"):
        ssl_context(Endpoint("https://x", certificate=(b"a", b"b")))


def test_credentials_that_expired_during_a_long_command_are_read_again(server: AnsweringServer) -> None:
    """A plugin's token of 15 minutes, and 'kigi capture --wait 3600'."""
    tokens = iter(["second", "third", "fourth"])
    made = KubeSession(
        Endpoint(server.url, token="first"),
        manager="me",
        timeout_s=5,
        renew=lambda: Endpoint(server.url, token=next(tokens)),
    )
    with made as kube:
        server.answers = [(200, {}), (401, {}), (200, {"found": True}), (401, {})]
        kube.get(SYSTEM, "ns", "x")
        assert kube.get(SYSTEM, "ns", "x") == {"found": True}
        assert [headers["Authorization"] for _, _, headers, _ in server.asked] == [
            "Bearer first",
            "Bearer first",
            "Bearer second",
        ]
        with pytest.raises(SpecInvalid, match="log in again"):  # not twice in a moment
            kube.get(SYSTEM, "ns", "x")
        assert next(tokens) == "third"


def test_credentials_that_stay_the_same_are_not_tried_again(server: AnsweringServer) -> None:
    endpoint = Endpoint(server.url, token="t")
    with KubeSession(endpoint, manager="me", timeout_s=5, renew=lambda: endpoint) as kube:
        server.answers = [(401, {})]
        with pytest.raises(SpecInvalid, match="log in again"):
            kube.get(SYSTEM, "ns", "x")
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again_for_the_given_time(server: AnsweringServer) -> None:
    """The API server answers 429 for seconds after a definition has changed."""
    pauses: list[float] = []
    with KubeSession(Endpoint(server.url), manager="me", timeout_s=5, busy_s=2.0, sleep=pauses.append) as kube:
        server.answers = [(429, {}), (429, {}), (200, {"found": True})]
        assert kube.get(SYSTEM, "ns", "x") == {"found": True}
        assert pauses == [0.5, 0.5]
        server.answers = [(429, {})] * 9
        with pytest.raises(Throttled):
            kube.get(SYSTEM, "ns", "x")
        assert sum(pauses) == 1.0 + 2.0
    assert len(server.asked) == 3 + 5


def test_other_commands_report_a_busy_server(server: AnsweringServer, kube: KubeSession) -> None:
    server.answers = [(429, {})]
    with pytest.raises(Throttled):
        kube.get(SYSTEM, "ns", "x")
