"""What a capture asks of KubeVirt, in which order, and what it notes of the times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kigi.api.capture import CapturedMachine
from kigi.errors import Unreachable
from kigi.planning.capture_view import CaptureView
from kigi.reconcilers.captures import _pause, _resume
from kigi.runtime.ports import Ports

START = datetime(2026, 1, 1, tzinfo=UTC)
VIEW = cast(
    CaptureView,
    SimpleNamespace(namespace="ns", spec=SimpleNamespace(deployment=SimpleNamespace(name="dep"), instance=0)),
)


class KubeVirt:
    """Takes a second for each request, and refuses some."""

    def __init__(self, *refused: str) -> None:
        self.kube = self
        self.asked: list[str] = []
        self._refused = refused
        self._now = START

    def now(self) -> datetime:
        return self._now

    async def vmi_request(self, namespace: str, name: str, verb: str, body: Any = None) -> None:
        self.asked.append(verb)
        self._now += timedelta(seconds=1)
        if verb in self._refused:
            raise Unreachable(f"{verb}: no answer")


def machine(method: str) -> CapturedMachine:
    return CapturedMachine.model_validate(
        {"name": "mail1", "vmiUid": "u", "method": method, "requestedAt": START.isoformat()}
    )


async def test_a_guest_with_an_agent_is_frozen_before_it_is_paused_and_thawed_after_it_runs() -> None:
    kubevirt = KubeVirt()
    (paused,), failure = await _pause(cast(Ports, kubevirt), VIEW, [machine("FreezeAndPause")])
    assert failure == ""
    (resumed,), _ = await _resume(cast(Ports, kubevirt), VIEW, [paused])
    assert kubevirt.asked == ["freeze", "pause", "unpause", "unfreeze"]
    assert resumed.pause_milliseconds == 4000, "from before the freeze to after the thaw"


@pytest.mark.parametrize("thaw", [(), ("unfreeze",)])
async def test_a_freeze_without_an_answer_is_taken_back_for_the_guest_may_have_frozen(thaw: tuple[str, ...]) -> None:
    kubevirt = KubeVirt("freeze", *thaw)
    (paused,), failure = await _pause(cast(Ports, kubevirt), VIEW, [machine("FreezeAndPause")])
    assert kubevirt.asked == ["freeze", "unfreeze", "pause"]
    assert (paused.method, failure) == ("Pause", "")


async def test_a_pause_that_fails_is_told_with_the_machine() -> None:
    (stays,), failure = await _pause(cast(Ports, KubeVirt("pause")), VIEW, [machine("Pause")])
    assert stays.paused_at is None
    assert failure == "mail1: pause: no answer"
