"""The helpers of the end-to-end tests read reports of the VM's current run, not of an earlier one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from demo.steps import PublishedExercise
from demo.targets import Target
from localcluster.cluster import Cluster
from tests.e2e import exercise
from tests.e2e.exercise import Exercise, eventually

LINE = "KIGI-GUEST machine=store boot=1\n"


class Api:
    """API of a VM during a reset: first the old run, then no run, then the new run, whose guest boots for a while."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def uid(self) -> str | None:
        return "old" if self.asked < 5 else None if self.asked < 8 else "new"

    def get(self, kind: str, *arguments: str) -> dict[str, Any]:
        if kind == "virtualmachineinstances":
            self.asked += 1
            return {"items": [{"metadata": {"name": "exercise-1-store", "uid": self.uid}}] if self.uid else []}
        there = self.uid is not None and arguments[-1].endswith(f"created-by={self.uid}")
        pod = {"metadata": {"name": self.uid, "creationTimestamp": "1"}, "status": {"phase": "Running"}}
        return {"items": [pod] if there else []}

    def kubectl(self, verb: str, *arguments: str, timeout_s: float) -> str:
        return LINE + f"old at {self.asked}" if self.uid == "old" else LINE if self.asked > 12 else "booting"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Exercise:
    monkeypatch.setattr(exercise.time, "sleep", lambda _: None)
    published = SimpleNamespace(namespace="ns")
    return Exercise(cast(Cluster, None), cast(Target, Api()), cast(PublishedExercise, published))


def test_next_run_waits_until_the_reports_are_of_the_new_guest(store: Exercise) -> None:
    """Without that wait the old guest gives the same report, and would receive commands instead of the new one."""
    assert store.report("store", boot="1") == {"machine": "store", "boot": "1"}
    assert cast(Api, store.target).uid == "old"
    assert store.next_run("store", "old") == "new"
    assert store.report("store", boot="1") == {"machine": "store", "boot": "1"}
    assert cast(Api, store.target).asked > 12


def test_an_error_has_the_expected_and_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercise.time, "sleep", lambda _: None)
    monkeypatch.setattr(exercise, "eventually", lambda check, what: eventually(check, what, 0.05))
    one = Exercise(cast(Cluster, None), cast(Target, Api()), cast(PublishedExercise, SimpleNamespace(namespace="ns")))
    with pytest.raises(AssertionError, match=r"a report of store with .*boot.*7.*; last: .*'boot': '1'"):
        one.report("store", boot="7")
