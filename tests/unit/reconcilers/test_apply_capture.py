"""Requests of a capture's steps to KubeVirt and the API server: their order, their errors and their times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from kigi.errors import Conflict, KigiError, LostLeadership, NotFound, Unreachable
from kigi.planning.capture_progress import CaptureProgress
from kigi.planning.steps import (
    CaptureStep,
    CreateObject,
    DeleteCapture,
    FreezeGuest,
    PauseMachine,
    RecordProgress,
    ResumeMachine,
    StepResult,
)
from kigi.reconcilers.apply_capture import apply_capture_steps
from kigi.runtime.ports import Ports

START = datetime(2026, 1, 1, tzinfo=UTC)
FREEZE, PAUSE = FreezeGuest("ns", "dep-0-web", "web", 60), PauseMachine("ns", "dep-0-web", "web")
RESUME = ResumeMachine("ns", "dep-0-web", "web", thaw=True)
RECORD = RecordProgress(CaptureProgress())


class Cluster:
    """Ports with a KubeVirt and an API server that take a second for each request; ``errors`` by verb or name."""

    def __init__(self, **errors: KigiError) -> None:
        self.kube = self
        self.asked: list[str] = []
        self.seen: list[str] = []
        self.left: dict[str, Any] | None = None
        self._errors = errors
        self._now = START

    def now(self) -> datetime:
        return self._now

    def see(self, kind: str, body: Mapping[str, Any]) -> None:
        self.seen.append(f"{kind} {body['metadata']['name']}")

    async def vmi_request(self, namespace: str, name: str, verb: str, body: Any = None) -> None:
        self._ask(verb)

    async def create(self, resource: Any, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        self._ask(manifest["metadata"]["name"])
        return manifest

    async def delete(self, resource: Any, namespace: str, name: str, *, uid: str) -> dict[str, Any] | None:
        self._ask(f"delete {namespace}/{name} {uid}")
        return self.left

    def see_gone(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self.seen.append(f"gone {uid}")

    async def record(self, progress: CaptureProgress) -> None:
        self._ask(progress.stage)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self._now += timedelta(seconds=1)
        if what in self._errors:
            raise self._errors[what]

    async def apply(self, *steps: CaptureStep) -> list[StepResult]:
        return await apply_capture_steps(cast(Ports, self), steps, self.record)


def created(kind: str, name: str) -> CreateObject:
    return CreateObject({"apiVersion": "kigi.dev/v1alpha2", "kind": kind, "metadata": {"name": name}})


async def test_a_guest_is_frozen_before_it_is_paused_and_thawed_after_it_runs() -> None:
    cluster = Cluster()
    results = await cluster.apply(RECORD, FREEZE, PAUSE, RESUME)
    assert cluster.asked == ["Pending", "freeze", "pause", "unpause", "unfreeze"]
    assert [(result.finished_at - START).seconds for result in results] == [1, 2, 3, 5], "each after its last request"
    assert not any(result.error for result in results)


@pytest.mark.parametrize("thaw", [{}, {"unfreeze": Unreachable("no answer")}])
async def test_a_freeze_without_an_answer_is_undone_as_the_guest_may_be_frozen(thaw: dict[str, KigiError]) -> None:
    cluster = Cluster(freeze=Unreachable("no answer"), **thaw)
    frozen, paused = await cluster.apply(FREEZE, PAUSE)
    assert cluster.asked == ["freeze", "unfreeze", "pause"]
    assert (str(frozen.error), paused.error) == ("no answer", None)


async def test_nothing_is_paused_if_the_progress_could_not_be_recorded() -> None:
    cluster = Cluster(Pending=Unreachable("no answer"))
    (recorded,) = await cluster.apply(RECORD, FREEZE, PAUSE)
    assert cluster.asked == ["Pending"]
    assert isinstance(recorded.error, Unreachable)


async def test_all_vms_are_tried_when_one_cannot_be_paused() -> None:
    cluster = Cluster(pause=Unreachable("no answer"))
    results = await cluster.apply(PAUSE, PauseMachine("ns", "dep-0-db", "db"), RESUME)
    assert cluster.asked == ["pause", "pause"], "what follows is decided on the results"
    assert [str(result.error) for result in results] == ["no answer"] * 2


async def test_nothing_is_paused_if_a_required_freeze_has_failed() -> None:
    cluster = Cluster(freeze=Unreachable("no answer"))
    (frozen,) = await cluster.apply(replace(FREEZE, required=True), PAUSE)
    assert cluster.asked == ["freeze", "unfreeze"]
    assert str(frozen.error) == "no answer"


@pytest.mark.parametrize("left", [None, {"metadata": {"name": "after"}}])
async def test_a_finished_capture_is_deleted_by_its_uid(left: dict[str, Any] | None) -> None:
    cluster = Cluster()
    cluster.left = left
    (result,) = await cluster.apply(DeleteCapture("ns", "after", "u1"))
    assert (cluster.asked, result.error) == (["delete ns/after u1"], None)
    assert cluster.seen == (["gone u1"] if left is None else ["SystemCapture after"])


async def test_a_vm_that_is_paused_already_is_done() -> None:
    cluster = Cluster(pause=Conflict("it is paused"))
    (result,) = await cluster.apply(PAUSE)
    assert result.error is None


@pytest.mark.parametrize("error", [Conflict("it is not paused"), NotFound("there is no such VM")])
async def test_a_vm_that_runs_or_is_gone_is_resumed_and_thawed_all_the_same(error: KigiError) -> None:
    cluster = Cluster(unpause=error)
    (result,) = await cluster.apply(RESUME)
    assert (cluster.asked, result.error) == (["unpause", "unfreeze"], None)


@pytest.mark.parametrize("error", [LostLeadership("another leads"), Unreachable("no answer")])
async def test_a_resumption_without_an_answer_has_failed(error: KigiError) -> None:
    cluster = Cluster(unpause=error)
    (result,) = await cluster.apply(RESUME)
    assert (cluster.asked, result.error) == (["unpause"], error)


async def test_a_state_is_not_created_without_its_images() -> None:
    steps = [created("VMImageNode", "a-web"), created("VMImageNode", "a-db"), created("SystemNode", "a")]
    cluster = Cluster()
    await cluster.apply(*steps)
    assert cluster.seen == ["VMImageNode a-web", "VMImageNode a-db", "SystemNode a"]
    failing = Cluster(**{"a-web": Conflict("exists")})
    results = await failing.apply(*steps)
    assert failing.asked == ["a-web", "a-db"]
    assert [type(result.error) for result in results] == [Conflict, type(None)]
