"""What the end-to-end tests ask of a guest is answered by the guest of the present run."""

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
    """A reset: the old run is there for some time, then no run, then the new one, whose guest boots for a while."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def uid(self) -> str | None:
        return "old" if self.asked < 5 else None if self.asked < 8 else "new"

    def get(self, kind: str, *arguments: str) -> dict[str, Any]:
        if kind == "virtualmachineinstances":
            self.asked += 1
            return {"items": [{"metadata": {"name": "exercise-0-store", "uid": self.uid}}] if self.uid else []}
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


def test_the_next_run_is_waited_for_before_its_guest_is_asked(store: Exercise) -> None:
    """Without that wait the old guest reports the very same, and takes an order that the new one never gets."""
    assert store.says("store", boot="1") == {"machine": "store", "boot": "1"}
    assert cast(Api, store.target).uid == "old"
    assert store.next_run("store", "old") == "new"
    assert store.says("store", boot="1") == {"machine": "store", "boot": "1"}
    assert cast(Api, store.target).asked > 12


def test_an_error_names_what_was_waited_for_and_what_was_heard_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercise.time, "sleep", lambda _: None)
    monkeypatch.setattr(exercise, "eventually", lambda check, what: eventually(check, what, 0.05))
    one = Exercise(cast(Cluster, None), cast(Target, Api()), cast(PublishedExercise, SimpleNamespace(namespace="ns")))
    with pytest.raises(AssertionError, match=r"a report of store with .*boot.*7.*; last: .*'boot': '1'"):
        one.says("store", boot="7")
