"""CloudEvents of what changes, each once, and their delivery to a webhook."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from kigi.cli.cloud_events import CloudEvent, Observer
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.live import Changed, Interrupted, Listed
from kigi.cli.webhook import ATTEMPTS, CONTENT_TYPE, Webhook, parse_url
from kigi.errors import Unreachable
from tests.support.answering import AnsweringServer

T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"


def condition(kind: str, status: str, moment: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "X", "message": "m", "lastTransitionTime": moment}


def instance(*actions: str, ready: tuple[str, str] = ("True", T1), deployment: str = "office") -> dict[str, Any]:
    history = [{"decisionTime": T1, "action": action, "toSystemName": "a", "machines": ["mail"]} for action in actions]
    return {
        "metadata": {"name": f"{deployment}-7", "namespace": "lab", "uid": f"u-{deployment}"},
        "spec": {"deploymentRef": {"name": deployment}, "name": "7"},
        "status": {"history": history, "conditions": [condition("Ready", *ready)]},
    }


def changed(body: dict[str, Any], kind: str = "SystemInstance", *, is_gone: bool = False) -> Changed:
    return Changed(kind, body, is_gone)


def types(events: list[CloudEvent]) -> list[str]:
    return [event["type"] for event in events]


def test_what_existed_before_the_start_is_no_event_and_a_change_is_one_once() -> None:
    observer = Observer()
    assert observer.take(Listed("SystemInstance", [instance("Deployed")])) == []
    reset = instance("Deployed", "Reset", ready=("False", T2))
    assert types(observer.take(changed(reset))) == ["dev.kigi.instance.reset", "dev.kigi.instance.notready"]
    assert observer.take(changed(reset)) == []
    assert observer.take(Interrupted("SystemInstance", Unreachable("x"))) == []
    again = Listed("SystemInstance", [instance("Deployed", "Reset", ready=("True", T2))])
    assert types(observer.take(again)) == ["dev.kigi.instance.ready"], "what happened meanwhile is reported"
    assert types(observer.take(changed(instance("Deployed", deployment="lab2")))) == [
        "dev.kigi.instance.deployed",
        "dev.kigi.instance.ready",
    ]
    assert observer.take(changed(reset, is_gone=True)) == []


def test_an_event_has_the_attributes_of_the_specification() -> None:
    observer = Observer()
    observer.take(Listed("SystemInstance", []))
    first, _ = observer.take(changed(instance("Reset")))
    assert first.keys() == {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
    assert (first["specversion"], first["subject"]) == ("1.0", "SystemInstance/office-7")
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert {"deployment": "office", "instance": "7", "action": "Reset", "machines": ["mail"]}.items() <= first[
        "data"
    ].items()
    other = Observer()
    other.take(Listed("SystemInstance", []))
    assert other.take(changed(instance("Reset")))[0]["id"] == first["id"], "a receiver knows an event that comes again"


def test_captures_and_deployments_report_their_end_and_other_deployments_nothing() -> None:
    observer = Observer("office")
    capture = {
        "metadata": {"name": "keep", "namespace": "lab", "uid": "c"},
        "spec": {"instanceRef": {"name": "office-7"}},
        "status": {"conditions": [condition("Ready", "False", T1), condition("Stalled", "True", T2)]},
    }
    deployment = {"metadata": {"name": "office", "namespace": "lab", "uid": "d"}, "spec": {}}
    ready = {**deployment, "status": {"conditions": [condition("Ready", "True", T1)]}}
    for kind in ("SystemCapture", "SystemDeployment", "SystemInstance"):
        observer.take(Listed(kind, []))
    assert types(observer.take(changed(capture, "SystemCapture"))) == ["dev.kigi.capture.stalled"]
    assert observer.take(changed(deployment, "SystemDeployment")) == []
    assert types(observer.take(changed(ready, "SystemDeployment"))) == ["dev.kigi.deployment.ready"]
    assert observer.take(changed(instance("Reset", deployment="lab2"))) == []


EVENT = {"specversion": "1.0", "id": "1", "type": "dev.kigi.instance.reset"}


def test_an_event_is_sent_again_until_it_is_taken() -> None:
    sleeps: list[float] = []
    with AnsweringServer(lambda method, path: (204, b"")) as server:
        server.answers = [(503, {}), (429, {})]
        hook = Webhook(f"{server.url}/hook?team=7", "t0ken", sleep=sleeps.append)
        assert hook.send(EVENT) == ""
    assert sleeps == [1, 2]
    assert {(method, path) for method, path, _, _ in server.asked} == {("POST", "/hook?team=7")}
    _, _, headers, body = server.asked[-1]
    assert body == EVENT
    assert (headers["Content-Type"], headers["Authorization"]) == (CONTENT_TYPE, "Bearer t0ken")


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404])
def test_a_refusal_is_final_and_a_redirect_is_one(status: int) -> None:
    """The token would go to whatever server the answer names."""
    with AnsweringServer(lambda method, path: (status, {})) as server:
        assert Webhook(server.url, "t0ken", sleep=lambda _: None).send(EVENT) == f"HTTP {status}"
        assert len(server.asked) == 1


def test_a_webhook_that_stays_silent_is_given_up() -> None:
    sleeps: list[float] = []
    hook = Webhook("http://127.0.0.1:1/", sleep=sleeps.append)
    assert "refused" in hook.send(EVENT)
    assert (len(sleeps), max(sleeps)) == (ATTEMPTS - 1, 30)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/", "x", "http://", "http://[", "http://a b/", "http://x/\r\nA: b", "https://u:p@x/", "http://x:0/"],
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(OptionInvalid, match="is no URL"):
        parse_url(url)
