"""Checks that no real server can be made to fail: they depend on facts alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.adapters.kubernetes.installation import DEFINITION, OPERATOR
from kigi.adapters.kubernetes.resources import KUBEVIRT, LEASE, PLUGIN, REPOSITORY
from kigi.cli.installation_facts import seconds_ahead
from kigi.doctor.clocks import check_clocks
from kigi.doctor.cluster import check_feature_gate, check_kubernetes
from kigi.doctor.examine import examine
from kigi.doctor.facts import Facts, Listing, RepositoryAnswer
from kigi.doctor.findings import Diagnosis, has_errors, in_order
from kigi.doctor.images import check_hook_setting
from kigi.doctor.leases import age_s, ahead_s
from kigi.doctor.repositories import check_repositories

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
FACTS = Facts(namespace="kigi-system", version="0.1.0", now=NOW)
DEFINITIONS = Listing(({"metadata": {"name": "x"}, "spec": {"group": "kigi.dev", "versions": []}},))


def with_items(*items: dict[str, Any], resource: Any, **more: Any) -> Facts:
    return replace(FACTS, listings={DEFINITION: DEFINITIONS, resource: Listing(items), **more})


@pytest.mark.parametrize(
    ("version", "state"),
    [("v1.29.9", "error"), ("v1.30.0", "ok"), ("v1.36.3", "ok"), ("v1.31+", "ok"), ("", "not checked"), ("v2.0", "ok")],
)
def test_kubernetes_is_1_30_or_later(version: str, state: str) -> None:
    (finding,) = check_kubernetes(replace(FACTS, kubernetes=version))
    assert finding.state == state
    assert (finding.remedy != "") == (state != "ok")


def kubevirt(version: str, *gates: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {"developerConfiguration": {"featureGates": list(gates)}}},
        "status": {"observedKubeVirtVersion": version},
    }


@pytest.mark.parametrize(
    ("version", "gates", "missing"),
    [
        ("v1.7.0", (), "Sidecar"),
        ("v1.8.1", ("Plugins",), "Sidecar"),
        ("v1.9.0", (), "Plugins"),
        ("v1.9.0", ("Sidecar",), ""),
        ("v1.8.0", ("Sidecar",), ""),
        ("v1.6.0", (), ""),
    ],
)
def test_the_gate_that_the_release_needs_is_named(version: str, gates: tuple[str, ...], missing: str) -> None:
    found = list(check_feature_gate(with_items(kubevirt(version, *gates), resource=KUBEVIRT)))
    errors = [each for each in found if each.state == "error"]
    assert bool(errors) == bool(missing)
    assert all(f"adds {missing} to spec.configuration" in each.remedy for each in errors)
    assert all("beside the gates that are set" in each.remedy for each in errors)


@pytest.mark.parametrize(
    ("operator", "hook", "is_named"),
    [
        ("r.example:5000/kigi:0.2.0", "r.example:5000/kigi-hook:0.1.0", True),
        (f"kigi-operator:0.2.0@sha256:{'1' * 64}", f"kigi-hook:0.1.0@sha256:{'2' * 64}", True),
        (f"kigi-operator:0.2.0@sha256:{'1' * 64}", f"kigi-hook:0.2.0@sha256:{'2' * 64}", False),
        (f"kigi-operator@sha256:{'1' * 64}", "kigi-hook:0.2.0", False),
        ("kigi:0.2.0", "", False),
    ],
)
def test_a_hook_of_another_version_is_named(operator: str, hook: str, is_named: bool) -> None:
    """With digests too, as a release has them; a digest alone has no version."""
    container = {"name": "operator", "image": operator, "env": [{"name": "KIGI_HOOK_IMAGE", "value": hook}]}
    workload = {"metadata": {"name": "kigi-operator"}, "spec": {"template": {"spec": {"containers": [container]}}}}
    listings = {OPERATOR: Listing((workload,)), KUBEVIRT: Listing((kubevirt("v1.7.0", "Sidecar"),))}
    found = list(check_hook_setting(replace(FACTS, listings=listings)))
    assert [each.state for each in found] == ["warning"] * is_named


def test_a_plugin_that_the_operator_has_not_created() -> None:
    facts = with_items(kubevirt("v1.9.1", "Plugins"), resource=KUBEVIRT, **{})
    facts = replace(facts, listings={**facts.listings, PLUGIN: Listing()})
    assert [each.object for each in check_feature_gate(facts) if each.state == "error"] == ["Plugin/kigi-disks"]
    made = {**facts.listings, PLUGIN: Listing(({"metadata": {"name": "kigi-disks"}},))}
    assert not has_errors(check_feature_gate(replace(facts, listings=made)))


def lease(renewed: str, stored: str) -> dict[str, Any]:
    entries = [
        {"time": "2020-01-01T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
        {"time": stored, "fieldsV1": {"f:spec": {"f:renewTime": {}}}},
    ]
    meta = {"name": "kigi-node-a", "managedFields": entries}
    return {"metadata": meta, "spec": {"holderIdentity": "a", "renewTime": renewed}}


def test_a_clock_is_compared_with_the_api_servers_and_not_with_the_callers() -> None:
    body = lease("2026-05-01T12:02:00.250000Z", "2026-05-01T11:59:50Z")
    for ahead in (0.0, 5000.0):
        facts = replace(FACTS, server_ahead_s=ahead)
        assert ahead_s(body) == pytest.approx(130.25)
        assert age_s(facts, body) == pytest.approx(10.0 + ahead)
    assert ahead_s(lease("nonsense", "2026-05-01T11:59:50Z")) is None
    assert ahead_s({"metadata": {"name": "x"}, "spec": {}}) is None


def test_the_callers_clock_and_that_of_a_server() -> None:
    facts = replace(
        with_items(lease("2026-05-01T11:59:50Z", "2026-05-01T11:59:50Z"), resource=LEASE),
        server_ahead_s=-40.0,
        repositories={"main": RepositoryAnswer(ahead_s=3600.0), "near": RepositoryAnswer(ahead_s=-41.0)},
    )
    found = {each.object: each for each in check_clocks(facts)}
    assert set(found) == {"this machine", "S3 server of LayerRepository/main"}
    assert (found["this machine"].state, found["S3 server of LayerRepository/main"].state) == ("warning", "error")
    assert "40 s ahead of" in found["this machine"].sentence
    assert "3640 s ahead of" in found["S3 server of LayerRepository/main"].sentence


def test_a_slow_answer_says_nothing_about_a_clock() -> None:
    date = "Fri, 01 May 2026 12:00:10 GMT"
    at = NOW.timestamp()
    assert seconds_ahead(date, at, at + 1) == pytest.approx(10.0)
    assert seconds_ahead(date, at, at + 9) is None
    assert seconds_ahead("", at, at) is None
    assert seconds_ahead("yesterday", at, at) is None


def repository(ready: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "reason": "x", "message": "m"}]
    spec = {"s3": {"bucket": "kigi"}, "defaultFor": "AllNamespaces"}
    return {"metadata": {"name": "main"}, "spec": spec, "status": {"conditions": conditions}}


@pytest.mark.parametrize(("ready", "state"), [("True", "not checked"), ("False", "error")])
def test_a_server_that_only_the_operator_reaches_is_no_error(ready: str, state: str) -> None:
    answer = RepositoryAnswer(reason="RepositoryUnreachable", message="no route")
    facts = replace(with_items(repository(ready), resource=REPOSITORY), repositories={"main": answer})
    assert [each.state for each in check_repositories(facts) if each.check == "buckets"] == [state]


def test_without_any_right_nothing_is_an_error_by_itself() -> None:
    """Each listing is unread: every check says so, and none guesses."""
    installed = replace(FACTS, kubernetes="v1.31.0", listings={DEFINITION: DEFINITIONS})
    errors = [each for each in examine(installed) if each.state == "error"]
    assert {each.check for each in errors} == {"definitions"}, "the one listing that was read"


def test_errors_come_first_and_decide_the_exit_code() -> None:
    findings = [Diagnosis("c", state, "o", "s") for state in ("ok", "warning", "not checked", "error")]  # type: ignore[arg-type]
    assert [each.state for each in in_order(findings)] == ["error", "warning", "not checked", "ok"]
    assert has_errors(findings)
    assert not has_errors(findings[:3])
