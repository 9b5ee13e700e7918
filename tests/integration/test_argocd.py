"""Argo CD's health of all kinds: by its own Lua machine, compared with kstatus over generated histories."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.property.test_capture_plan as captures
import tests.property.test_kstatus as trees
import tests.property.test_kstatus_instances as instances
import tests.property.test_prefetch_plan as prefetches
from kigi.api.base import Status
from tests.support import kstatus
from tests.support.gitops import ARGOCD_CM, GitOps
from tools.crdgen import KINDS, build_crd

GROUPS = {kind.__name__: build_crd(kind)["spec"]["group"] for kind in KINDS}
VERSIONS = {kind.__name__: build_crd(kind)["spec"]["versions"][0]["name"] for kind in KINDS}


@pytest.fixture(scope="module")
def argo() -> Iterator[GitOps]:
    with GitOps.running() as checker:
        yield checker


def body_of(kind: str, metadata: dict[str, Any], status: dict[str, Any], **spec: Any) -> dict[str, Any]:
    found = {"name": "x", "namespace": "default", **metadata}
    return {"apiVersion": f"{GROUPS[kind]}/{VERSIONS[kind]}", "kind": kind, "metadata": found, "spec": spec} | {
        "status": status
    }


def test_the_patch_has_a_health_check_for_every_kind() -> None:
    data = yaml.safe_load(ARGOCD_CM.read_text())["data"]
    wanted = {f"resource.customizations.health.{group}_{kind}" for kind, group in GROUPS.items()}
    assert wanted == {key for key in data if ".health." in key}
    assert len(wanted) == 13


# Generated histories of every kind.

outcomes = st.one_of(st.sampled_from(trees.ERRORS), st.sampled_from(["ready", "working"]))
counts = st.integers(0, 2)
OFF = {"SystemDeployment": ("ready_replicas", "stopped_replicas"), "SystemInstance": ("running_machines",)}
steps = st.lists(
    st.one_of(st.just("edit"), st.just("delete"), st.tuples(st.just("count"), counts, counts), st.tuples(outcomes)),
    max_size=10,
)


@pytest.mark.parametrize("kind", sorted(GROUPS))
def test_argo_cd_agrees_with_kstatus_over_any_history(argo: GitOps, kind: str) -> None:
    """Edits, deletions, reconciles with each outcome, and VMs that are switched on and off."""

    @settings(max_examples=60)
    @given(steps)
    def law(history: list[Any]) -> None:
        world = trees.Object(trees.STATUSES[kind]())
        for step in [None, *history]:
            if step == "edit":
                world.generation += 1
            elif step == "delete":
                world.deleting = True
            elif step is not None and step[0] == "count":
                changes = dict(zip(OFF.get(kind, ()), step[1:], strict=False))
                world.status = world.status.model_copy(update=changes)
            elif step is not None:
                world.reconcile(step[0], [])
            argo.agree(body_of(kind, **world.body()))

    law()


def captures_that_are_interrupted() -> None:
    captures.test_an_operator_that_stops_after_every_few_requests_gets_on(3)


STATES = ["True", "False", "Unknown"]


@settings(max_examples=300)
@given(
    st.sampled_from(STATES),
    st.dictionaries(st.sampled_from(["Reconciling", "Stalled", "Cached"]), st.sampled_from(STATES)),
    st.booleans(),
    st.sampled_from([1, 1, 1, 0, -1]),
    st.sampled_from([False, False, False, True]),
)
def any_conditions(
    argo: GitOps, ready: str, others: dict[str, str], is_last: bool, observed: int, deleting: bool
) -> None:
    """Also those that Kigi never writes, such as two that are True, or Ready alone."""
    metadata: dict[str, Any] = {"generation": 1} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})
    listed = [*others.items(), ("Ready", ready)] if is_last else [("Ready", ready), *others.items()]
    body = status_with("SystemNode", *listed, generation=observed)
    argo.agree({**body, "metadata": {**body["metadata"], **metadata}})


def test_argo_cd_agrees_with_kstatus_on_any_conditions(argo: GitOps) -> None:
    any_conditions(argo)


LAWS: list[Callable[[], None]] = [
    trees.test_images,
    trees.test_states,
    trees.test_nodes,
    instances.test_instances_and_their_deployment_at_any_moment,
    captures_that_are_interrupted,
    prefetches.test_turns_are_kept_and_the_chosen_nodes_hold_everything_in_any_history,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_argo_cd_agrees_with_kstatus_on_the_statuses_that_kigi_writes(argo: GitOps, law: Callable[[], None]) -> None:
    """The functions that make the statuses, in the worlds of the property tests."""
    count = 0

    def agree(body: Any) -> None:
        nonlocal count
        count += 1
        for kind in [body["kind"]] if "kind" in body else ["SystemDeployment", "SystemInstance", "SystemNode"]:
            argo.agree(body_of(kind, body["metadata"], body["status"]))

    with kstatus.observed(agree):
        law()
    assert count >= 50, "the law checks few statuses"


# The edges of the mapping.


def status_with(kind: str, *conditions: tuple[str, str], generation: int = 1, **fields: Any) -> dict[str, Any]:
    listed = [{"type": name, "status": value, "reason": "Word", "message": "text"} for name, value in conditions]
    return body_of(kind, {"generation": 1}, {"observedGeneration": generation, "conditions": listed, **fields})


READY = (("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False"))


@pytest.mark.parametrize(
    ("body", "health"),
    [
        (status_with("SystemNode", *READY), "Healthy"),
        (status_with("SystemNode", *READY, generation=0), "Progressing"),
        (status_with("SystemNode", ("Ready", "False"), ("Reconciling", "True"), ("Stalled", "False")), "Progressing"),
        (status_with("SystemNode", ("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True")), "Degraded"),
        (status_with("SystemNode", ("Ready", "Unknown")), "Progressing"),
        (status_with("SystemDeployment", *READY, readyReplicas=2, stoppedReplicas=2), "Suspended"),
        (status_with("SystemDeployment", *READY, readyReplicas=2, stoppedReplicas=1), "Healthy"),
        (status_with("SystemDeployment", *READY, readyReplicas=0, stoppedReplicas=0), "Healthy"),
        (status_with("SystemInstance", *READY, runningMachines=0), "Suspended"),
        (status_with("SystemInstance", *READY, runningMachines=1), "Healthy"),
        (status_with("SystemNode", *READY, runningMachines=0), "Healthy"),
        (body_of("SystemNode", {"generation": 1}, {"observedGeneration": -1}), "Progressing"),
    ],
)
def test_the_mapping(argo: GitOps, body: dict[str, Any], health: str) -> None:
    assert argo.agree(body) == health


def test_an_object_without_status_is_in_progress_for_argo_cd(argo: GitOps) -> None:
    """kstatus calls it Current. It exists in Git only: the API server fills in observedGeneration -1."""
    found = argo.judge(body_of("SystemNode", {"generation": 1}, {}))
    assert (found["health"], found["status"]) == ("Progressing", "Current")


def test_the_message_has_reason_and_remedy(argo: GitOps) -> None:
    body = status_with("SystemNode", ("Ready", "False"), ("Reconciling", "True"))
    assert argo.judge(body)["healthMessage"] == "Word: text"


def test_a_deleted_object_offers_no_action(argo: GitOps) -> None:
    for kind in ("SystemDeployment", "SystemInstance"):
        body = body_of(kind, {"generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"}, {"observedGeneration": 1})
        assert "actions" not in argo.judge(body)


def test_statuses_of_all_kinds_are_known() -> None:
    assert json.dumps(sorted(trees.STATUSES)) == json.dumps(sorted(GROUPS))
    assert all(issubclass(each, Status) for each in trees.STATUSES.values())
