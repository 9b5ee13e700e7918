"""``--wait`` polls until Ready, and its result says whether that was reached."""

from __future__ import annotations

import contextlib
import json
from typing import Any, cast

import pytest

from kigi.adapters.kubernetes.resources import DEPLOYMENT
from kigi.adapters.kubernetes.session import KubeSession
from kigi.cli.exit_codes import NotReached
from kigi.cli.output import Format
from kigi.cli.wait import NOT_SEEN, POLL_S, is_ready, report, wait_until_ready

WRITTEN = {"metadata": {"name": "office", "namespace": "ns", "generation": 3}}


def observed(reason: str, *, ready: bool = False, stalled: bool = False, generation: int = 3) -> dict[str, Any]:
    conditions = [
        {"type": "Ready", "status": str(ready), "reason": reason, "message": "3 of 7"},
        {"type": "Stalled", "status": str(stalled), "reason": reason, "message": ""},
    ]
    return {"status": {"observedGeneration": generation, "conditions": conditions}}


class World:
    """An API server that returns one body after another, and a clock that only sleeping moves."""

    def __init__(self, *bodies: dict[str, Any] | None) -> None:
        self.bodies = list(bodies)
        self.now = 0.0

    def get(self, resource: object, namespace: str, name: str) -> dict[str, Any] | None:
        return self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, wait_s: float) -> dict[str, Any]:
        done: dict[str, Any] = {}
        kube = cast(KubeSession, self)
        try:
            wait_until_ready(kube, DEPLOYMENT, WRITTEN, wait_s, done, clock=lambda: self.now, sleep=self.sleep)
        except NotReached as exc:
            done["error"] = str(exc)
        return done


def test_an_object_that_gets_ready_is_polled_until_then() -> None:
    world = World({}, observed("Deployed", ready=True, generation=2), observed("Placing"), observed("x", ready=True))
    assert world.wait(60) == {"ready": True}
    assert world.now == 3 * POLL_S


def test_the_deadline_ends_the_wait_with_the_last_message() -> None:
    world = World(observed("LayersWarming"))
    done = world.wait(10)
    assert done["ready"] is False
    assert done["error"] == "SystemDeployment ns/office is not ready after 10 s: LayersWarming: 3 of 7"
    assert 10 < world.now <= 10 + 2 * POLL_S


def test_a_stalled_object_ends_the_wait_with_the_remedy() -> None:
    assert "correct the Secret" in World(observed("AccessDenied", stalled=True)).wait(60)["error"]


def test_a_deleted_object_ends_the_wait() -> None:
    assert World(observed("Placing"), None).wait(60)["error"] == "SystemDeployment ns/office was deleted"


def test_without_a_wait_nothing_is_read() -> None:
    assert World().wait(0) == {}


@pytest.mark.parametrize("body", [{}, {"status": {}}, observed("Deployed", ready=True, generation=2)])
def test_a_status_of_an_older_generation_does_not_count(body: dict[str, Any]) -> None:
    assert is_ready(body, 3) == (False, NOT_SEEN)


def test_a_result_is_printed_although_the_wait_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(NotReached), report(Format.JSON) as done:
        done["ready"] = False
        raise NotReached("too late")
    assert json.loads(capsys.readouterr().out) == {"ready": False}


def test_nothing_is_printed_when_nothing_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(NotReached), report(Format.JSON):
        raise NotReached("refused")
    assert capsys.readouterr().out == ""
