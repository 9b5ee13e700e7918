"""What kstatus concludes from the statuses of every kind, over generated histories of edits and reconciles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.api.base import Metadata, Status
from kigi.api.conditions import Finding, problem_findings, summary, with_conditions, with_problem
from kigi.api.image import VMImageNodeStatus
from kigi.api.node_cache import CachedLayer, NodeCache, NodeCacheSpec, NodeCacheStatus, WantedLayer
from kigi.api.system import SystemNodeStatus
from kigi.domain.layers import Digest, Layer
from kigi.domain.systems import ResolvedSystem
from kigi.domain.usage import User
from kigi.errors import ImageMissing, KigiError, NameTaken, SpecInvalid, Unreachable
from kigi.planning.view import ImageView, SystemView
from kigi.status.trees import image_status, system_status
from kigi_cache.disks.volumes import Volume
from kigi_cache.layers.report import FillState
from kigi_cache.node.status_report import build_status
from tests.support.kstatus import Result, check, compute
from tools.crdgen import KINDS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FRESH = {"observedGeneration": -1}
"""What the API server fills in."""
ERRORS = (ImageMissing("x"), Unreachable("x"), NameTaken("x"), SpecInvalid("x"))
STATUSES: dict[str, type[Status]] = {
    kind.__name__: kind.model_fields["status"].annotation  # type: ignore[misc]
    for kind in KINDS
}

errors = st.sampled_from(ERRORS)
outcomes = st.one_of(errors, st.sampled_from(["ready", "working"]))
phases = st.lists(st.sampled_from(["Resolved", "Cached", "Stored"]), unique=True)
steps = st.lists(st.one_of(st.just("edit"), st.just("delete"), st.tuples(outcomes, phases)), max_size=12)


class Object:
    """An API object with a status, which others edit, delete and reconcile."""

    def __init__(self, status: Status) -> None:
        self.generation = 1
        self.deleting = False
        self.status: Status = status
        self.clock = NOW

    def body(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {"generation": self.generation}
        if self.deleting:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return {"metadata": metadata, "status": self.status.to_api()}

    def reconcile(self, outcome: Any, types: list[str]) -> None:
        self.clock += timedelta(seconds=10)
        if isinstance(outcome, SpecInvalid):
            self.status = with_problem(self.status, outcome, generation=self.generation, now=self.clock)
            return
        if isinstance(outcome, KigiError):
            findings = problem_findings(outcome)
        else:
            findings = summary(ready=outcome == "ready", stalled=False, reason="Words", message="")
        more = [Finding(name, len(name) % 2 == 0, "Words", "") for name in types]
        old = self.status.conditions
        self.status = with_conditions(self.status, old, [*findings, *more], generation=self.generation, now=self.clock)


def expected(outcome: Any) -> Result:
    if isinstance(outcome, NameTaken | SpecInvalid):
        return "Failed"
    return "Current" if outcome == "ready" else "InProgress"


@pytest.mark.parametrize("kind", STATUSES)
@given(steps)
def test_kstatus_concludes_what_the_reconciler_found(kind: str, history: list[Any]) -> None:
    world = Object(STATUSES[kind]())
    assert compute({"metadata": {"generation": 1}, "status": FRESH}) == "InProgress"
    assert check(world.body()) == "InProgress", "nobody has reconciled it"
    for step in history:
        before = {item.type: item for item in world.status.conditions}
        if step == "edit":
            world.generation += 1
            found = check(world.body())
            assert found == ("Terminating" if world.deleting else "InProgress"), "the status is about the spec before"
        elif step == "delete":
            world.deleting = True
            assert compute(world.body()) == "Terminating"
        else:
            world.reconcile(*step)
            assert check(world.body()) == ("Terminating" if world.deleting else expected(step[0]))
        for item in world.status.conditions:
            same = item.type in before and before[item.type].status == item.status
            assert (item.last_transition_time == getattr(before.get(item.type), "last_transition_time", None)) == same


# The functions that make the statuses of trees and nodes.

sizes = st.integers(1, 10**6)
chains = st.lists(sizes, min_size=1, max_size=4).map(
    lambda found: tuple(Layer(Digest(f"sha256:{n:064x}"), size, 512, None) for n, size in enumerate(found))
)
users = st.lists(st.sampled_from([User("SystemNode", "s"), User("SystemDeployment", "d")]), unique=True).map(tuple)
old = st.integers(0, 3)


def body_of(status: Status, generation: int, deleting: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {"generation": generation} | ({"deletionTimestamp": "x"} if deleting else {})
    return {"metadata": metadata, "status": status.to_api()}


def judged(outcome: Any, deleting: bool, named: tuple[User, ...]) -> Result:
    if deleting:
        return "Terminating"
    if isinstance(outcome, KigiError):
        return expected(outcome)
    return "Current"


@given(st.one_of(errors, chains), st.one_of(errors, chains), st.booleans(), users, st.integers(1, 9))
def test_images(first: Any, second: Any, deleting: bool, named: tuple[User, ...], generation: int) -> None:
    status: VMImageNodeStatus | None = None
    for chain in (first, second):
        view = ImageView(generation, chain, 0, 0, None, False, NOW, status, deleting, named)
        status = image_status(view)
        assert check(body_of(status, generation, deleting)) == judged(chain, deleting, named)
        ready = {item.type: item.status for item in status.conditions}["Ready"]
        assert (ready == "True") == (not isinstance(chain, KigiError) and not (deleting and named))


states = st.builds(ResolvedSystem, st.just("s"), st.integers(1, 5), st.just(()))


@given(st.one_of(errors, states), st.one_of(errors, states), st.booleans(), users, st.integers(1, 9))
def test_states(first: Any, second: Any, deleting: bool, named: tuple[User, ...], generation: int) -> None:
    status: SystemNodeStatus | None = None
    for system in (first, second):
        status = system_status(SystemView(generation, system, None, NOW, status, deleting, named))
        assert check(body_of(status, generation, deleting)) == judged(system, deleting, named)


layer_states = st.sampled_from(["Held", "Fetching", "Queued", "Refused", "missing"])
reasons = st.sampled_from(["LayerRefused", "BudgetExceeded", "NoRoom", "RepositoryUnreachable"])


LAYER = {"sizeBytes": 9, "virtualSizeBytes": 512, "repositoryName": "main", "purpose": "Disk"}


@given(st.lists(st.tuples(layer_states, reasons), max_size=4), st.booleans(), st.integers(1, 5), st.integers(0, 2))
def test_nodes(layers: list[tuple[str, str]], discards: bool, generation: int, behind: int) -> None:
    """``behind``: edits of the spec that the daemon has not seen."""
    wanted = [
        WantedLayer.model_validate(
            {
                "digest": f"sha256:{n:064x}",
                "sizeBytes": 9,
                "virtualSizeBytes": 512,
                "repositoryName": "main",
                "purpose": "Disk",
            }
        )
        for n in range(len(layers))
    ]
    found = [
        CachedLayer.model_validate({"digest": want.digest, "state": state, "reason": reason, "message": "m"})
        for want, (state, reason) in zip(wanted, layers, strict=True)
        if state != "missing"
    ]
    spec = NodeCacheSpec.model_validate(
        {
            "nodeName": "n",
            "operatorProtocol": 2,
            "protocol": 2,
            "layers": [want.to_api() for want in wanted],
            "discardVolumes": ["a.r1"] if discards else [],
        }
    )
    cache = NodeCache(metadata=Metadata(name="n", generation=generation), spec=spec)
    status = build_status(
        cache, generation, FillState(found, 0, 0, 0, 0, 0), [Volume("a.r1", False)], NodeCacheStatus(),
        peer_address=None, now=NOW,
    )  # fmt: skip
    result = check(body_of(status, generation + behind, False))
    refusals = {reason for state, reason in layers if state == "Refused"}
    if behind:
        assert result == "InProgress"
    elif refusals & {"LayerRefused", "BudgetExceeded"}:
        assert result == "Failed"
    elif all(state == "Held" for state, _ in layers) and not discards:
        assert result == "Current"
    else:
        assert result == "InProgress"


# The reference itself.


@pytest.mark.parametrize(
    ("metadata", "status", "result"),
    [
        ({"generation": 1}, {}, "Current"),
        ({"generation": 2}, {"observedGeneration": 1}, "InProgress"),
        ({"generation": 1}, {"conditions": [{"type": "Ready", "status": "False"}]}, "InProgress"),
        ({"generation": 1}, {"conditions": [{"type": "Ready", "status": "Unknown"}]}, "InProgress"),
        ({"generation": 1}, {"conditions": [{"type": "Stalled", "status": "True"}]}, "Failed"),
        (
            {"generation": 2},
            {"observedGeneration": 1, "conditions": [{"type": "Stalled", "status": "True"}]},
            "InProgress",
        ),
        ({"generation": 1, "deletionTimestamp": "x"}, FRESH, "Terminating"),
    ],
)
def test_the_rules_of_kstatus(metadata: dict[str, Any], status: dict[str, Any], result: Result) -> None:
    assert compute({"metadata": metadata, "status": status}) == result


def test_two_true_conditions_are_found() -> None:
    broken = [*summary(ready=True, stalled=False, reason="R", message="")[:2], Finding("Stalled", True, "R", "")]
    status = with_conditions(SystemNodeStatus(), [], broken, generation=1, now=NOW)
    with pytest.raises(AssertionError):
        check(body_of(status, 1, False))
