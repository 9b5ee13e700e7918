"""The entries of ``kigi why`` follow an object that is not Ready to what it depends on."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.adapters.kubernetes.resources import CAPTURE, DEPLOYMENT, INSTANCE, NODE_CACHE, QUOTA, REPOSITORY, RESET
from kigi.cli.explain import explain


def because(**machine: Any) -> list[dict[str, Any]]:
    """Entries below an instance with that machine, which is not Ready."""
    key = (INSTANCE.kind, "office-0")
    ready = {"type": "Ready", "status": "False", "reason": "MachinesStarting", "message": ""}
    body = {
        "metadata": {"name": "office-0", "generation": 1},
        "spec": {"deploymentRef": {"name": "office"}, "name": "0"},
        "status": {
            "observedGeneration": 1,
            "conditions": [ready],
            "machines": [{"name": "mail1", "nodeName": "n1", **machine}],
        },
    }
    found: list[dict[str, Any]] = explain({key: body}, [key])[0]["because"]
    return found


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("Starting", "it runs, and its readiness probe does not answer"),
        ("Starting", "hook sidecar refused the domain"),
        ("Failed", "ErrorPvcNotFound"),
        ("Failed", None),
        ("CrashLooping", None),
        ("Paused", None),
        ("PoweredOff", None),
    ],
)
def test_a_machine_that_does_not_run_by_itself_has_an_entry_with_a_remedy(state: str, message: str | None) -> None:
    (machine,) = because(state=state, message=message)
    assert (machine["object"], machine["reason"]) == ("machine mail1 of instance 0", state)
    assert machine["message"] == (message or "")
    assert machine["remedy"]


@pytest.mark.parametrize("state", ["Running", "Stopped", "Starting", "Warming", "Restarting"])
def test_a_machine_that_runs_or_starts_has_no_entry(state: str) -> None:
    assert because(state=state) == []


def test_a_capture_names_the_disk_that_waits_its_node_and_the_reason() -> None:
    key = (CAPTURE.kind, "after")
    body = {
        "metadata": {"name": "after", "generation": 1},
        "spec": {"instanceRef": {"name": "office-0"}},
        "status": {
            "observedGeneration": 1,
            "conditions": [{"type": "Ready", "status": "False", "reason": "CacheSilent", "message": ""}],
            "blockedDisks": [
                {"machine": "web", "disk": "root", "nodeName": "n1", "reason": "CacheSilent", "message": "no report"}
            ],
        },
    }
    (entry,) = explain({key: body}, [key])
    (disk,) = entry["because"]
    assert (disk["object"], disk["reason"], disk["message"]) == ("disk web/root on node n1", "CacheSilent", "no report")
    assert disk["remedy"]


def test_a_capture_that_waits_for_its_deployment_has_the_deployments_entry() -> None:
    key, below = (CAPTURE.kind, "after"), (DEPLOYMENT.kind, "office")
    ready = {"type": "Ready", "status": "False", "message": ""}
    bodies = {
        key: {
            "metadata": {"name": "after", "generation": 1},
            "spec": {"instanceRef": {"name": "office-0"}},
            "status": {"observedGeneration": 1, "conditions": [{**ready, "reason": "NotSettled"}]},
        },
        below: {
            "metadata": {"name": "office", "generation": 1},
            "spec": {"systemRef": {"name": "a"}},
            "status": {"observedGeneration": 1, "conditions": [{**ready, "reason": "NoNode"}]},
        },
    }
    (entry,) = explain(bodies, [key])
    assert [found["reason"] for found in entry["because"]] == ["NoNode"]


def test_a_deployment_names_its_unready_instances_and_what_they_depend_on() -> None:
    key, below = (DEPLOYMENT.kind, "office"), (INSTANCE.kind, "office-7")
    ready = {"type": "Ready", "status": "False", "message": ""}
    bodies = {
        key: {
            "metadata": {"name": "office", "generation": 1},
            "spec": {"systemRef": {"name": "a"}},
            "status": {
                "observedGeneration": 1,
                "conditions": [{**ready, "reason": "MachineUnknown"}],
                "unreadyInstances": ["7", "8"],
            },
        },
        below: {
            "metadata": {"name": "office-7", "generation": 1},
            "spec": {"deploymentRef": {"name": "office"}, "name": "7"},
            "status": {"observedGeneration": 1, "conditions": [{**ready, "reason": "MachineUnknown"}]},
        },
    }
    (entry,) = explain(bodies, [key])
    assert [found["object"] for found in entry["because"]] == ["SystemInstance/office-7"]


REPO = (REPOSITORY.kind, "main")


def repository(ready: str, reason: str, writable: tuple[str, str] = ("True", "Writable")) -> dict[str, Any]:
    conditions = [
        {"type": "Ready", "status": ready, "reason": reason, "message": "https://s3.example.org: bucket kigi"},
        {"type": "Writable", "status": writable[0], "reason": writable[1], "message": "403"},
    ]
    return {
        "metadata": {"name": "main", "generation": 1},
        "status": {"observedGeneration": 1, "conditions": conditions},
    }


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("RepositoryUnreachable", "spec.s3.endpoint"),
        ("RepositoryUnknown", "spec.s3.bucket"),
        ("AccessDenied", "spec.credentials"),
        ("SpecInvalid", "the message names"),
    ],
)
def test_a_repository_that_cannot_be_read_has_a_remedy_for_its_administrator(reason: str, remedy: str) -> None:
    (entry,) = explain({REPO: repository("False", reason)}, [REPO])
    assert (entry["object"], entry["reason"]) == ("LayerRepository/main", reason)
    assert remedy in entry["remedy"]
    assert entry["message"] == "https://s3.example.org: bucket kigi"


def test_a_repository_that_takes_no_layers_is_explained_although_it_is_ready() -> None:
    (entry,) = explain({REPO: repository("True", "Reachable", ("False", "AccessDenied"))}, [REPO])
    assert (entry["reason"], entry["message"]) == ("AccessDenied", "403")
    for writable in (("True", "Writable"), ("True", "ConditionalWritesUnsupported"), ("False", "NoWriter")):
        assert explain({REPO: repository("True", "Reachable", writable)}, [REPO]) == []


def test_a_node_that_is_refused_layers_leads_to_their_repository_and_to_no_other() -> None:
    key = (NODE_CACHE.kind, "n1")
    layers = [{"digest": digest, "repositoryName": name} for digest, name in (("sha256:1", "main"), ("sha256:2", "b"))]
    states = [
        {"digest": "sha256:1", "state": "Refused", "reason": "RepositoryUnreachable"},
        {"digest": "sha256:2", "state": "Held"},
    ]
    ready = {"type": "Ready", "status": "False", "reason": "LayersFetching", "message": ""}
    node = {
        "metadata": {"name": "n1", "generation": 1},
        "spec": {"nodeName": "n1", "layers": layers},
        "status": {"observedGeneration": 1, "conditions": [ready], "layers": states},
    }
    down = repository("False", "RepositoryUnreachable")
    (entry,) = explain({key: node, REPO: down, (REPOSITORY.kind, "b"): down}, [key])
    assert [found["object"] for found in entry["because"]] == ["layer sha256:1", "LayerRepository/main"]


def test_a_capture_leads_to_the_repository_that_does_not_take_its_layers() -> None:
    key = (CAPTURE.kind, "after")
    ready = {"type": "Ready", "status": "False", "reason": "CaptureFailed", "message": ""}
    capture = {
        "metadata": {"name": "after", "generation": 1},
        "spec": {"instanceRef": {"name": "office-0"}},
        "status": {"observedGeneration": 1, "conditions": [ready], "repositoryName": "main"},
    }
    refused = repository("True", "Reachable", ("False", "AccessDenied"))
    (entry,) = explain({key: capture, REPO: refused}, [key])
    assert [(found["object"], found["reason"]) for found in entry["because"]] == [
        ("LayerRepository/main", "AccessDenied")
    ]


def quota(hard: dict[str, Any], scope: str | None = None, **used: dict[str, int]) -> list[dict[str, Any]]:
    key = (QUOTA.kind, "lab")
    ready = {"type": "Ready", "status": "True", "reason": "Counted", "message": "above a limit: class-a"}
    namespaces = [{"name": name, "used": amounts} for name, amounts in used.items()]
    body = {
        "metadata": {"name": "lab", "generation": 1},
        "spec": {"hard": hard, **({"scope": scope} if scope else {})},
        "status": {"observedGeneration": 1, "conditions": [ready], "namespaces": namespaces},
    }
    return explain({key: body}, [key])


def test_a_quota_is_explained_while_something_is_above_its_limits() -> None:
    (entry,) = quota({"wantedBytes": "1Ki"}, a={"wantedBytes": 1025})
    assert (entry["object"], entry["reason"]) == ("SystemQuota/lab", "QuotaExceeded")
    assert "above a limit" in entry["message"]
    assert "ask an administrator" in entry["remedy"]
    assert quota({"wantedBytes": "1Ki", "instances": 5}, a={"wantedBytes": 1024, "instances": 5}) == []
    assert quota({"instances": 5}, a={"instances": 3}, b={"instances": 3}) == []
    assert quota({"instances": 5}, "Shared", a={"instances": 3}, b={"instances": 3}) != []
    assert quota({"instances": 6}, "Shared", a={"instances": 3}, b={"instances": 3}) == []


def test_a_reset_leads_to_its_deployment_and_to_instances_that_failed() -> None:
    key = (RESET.kind, "lunch")
    ready = {"type": "Ready", "status": "False", "message": ""}
    bodies = {
        key: {
            "metadata": {"name": "lunch", "generation": 1},
            "spec": {"deploymentRef": {"name": "office"}},
            "status": {
                "observedGeneration": 1,
                "conditions": [{**ready, "reason": "MachinesStarting"}],
                "failedMachines": [{"instance": "7", "machine": "web", "state": "Failed"}],
            },
        },
        (INSTANCE.kind, "office-7"): {
            "metadata": {"name": "office-7", "generation": 1},
            "spec": {"deploymentRef": {"name": "office"}, "name": "7"},
            "status": {"observedGeneration": 1, "conditions": [{**ready, "reason": "NoNode"}]},
        },
    }
    (entry,) = explain(bodies, [key])
    assert [(found["object"], found["reason"]) for found in entry["because"]] == [("SystemInstance/office-7", "NoNode")]


@pytest.mark.parametrize(("skewed", "entries"), [("True", 1), ("False", 0)])
def test_a_node_with_all_layers_and_a_daemon_of_another_version_has_an_entry(skewed: str, entries: int) -> None:
    key = (NODE_CACHE.kind, "n1")
    conditions = [
        {"type": "Ready", "status": "True", "reason": "LayersHeld", "message": ""},
        {"type": "VersionSkew", "status": skewed, "reason": "VersionSkew", "message": "upgrade the daemon"},
    ]
    body = {"metadata": {"name": "n1"}, "spec": {"nodeName": "n1"}, "status": {"conditions": conditions}}
    found = explain({key: body}, [key])
    assert len(found) == entries
    assert all(each["reason"] == "VersionSkew" and each["remedy"] for each in found)
