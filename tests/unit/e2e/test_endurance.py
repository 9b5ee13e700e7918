"""The duration of the endurance test, and the disturbances that it detects."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kigi.hook.launcher import APPEARS_WITHIN_S
from tests.e2e.test_endurance import age_s, disturbances, timeouts_s

READY = {"type": "Ready", "status": "True"}


def container(name: str, since_s: float = 0.0) -> dict[str, Any]:
    started = (datetime.now(UTC) - timedelta(seconds=since_s)).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"name": name, "ready": True, "restartCount": 0, "state": {"running": {"startedAt": started}}}


def world() -> dict[str, Any]:
    """Pod, VMI and status of an undisturbed deployment."""
    finished = {"name": "init", "ready": True, "restartCount": 0, "state": {"terminated": {}}}
    pod_status = {
        "initContainerStatuses": [finished, container("guest-console-log", 700)],
        "containerStatuses": [container("compute", 600), container("hook-sidecar-0", 500)],
        "conditions": [{"type": "Other", "status": "False"}, READY],
    }
    return {
        "pod": {"status": pod_status},
        "vmi": {"metadata": {"uid": "u"}, "status": {"conditions": [READY]}},
        "deployment": {"conditions": [READY]},
        "uid": "u",
    }


def test_an_undisturbed_vm_has_no_disturbances() -> None:
    assert disturbances(**world()) == []


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("pod", "status", "containerStatuses", 1, "ready"), False, "hook-sidecar-0: ready False"),
        (("pod", "status", "containerStatuses", 0, "restartCount"), 1, "compute: ready True, restarts 1"),
        (("pod", "status", "initContainerStatuses", 1, "restartCount"), 2, "guest-console-log"),
        (("pod", "status", "conditions"), [], "pod: Ready"),
        (("vmi", "status", "conditions"), [{"type": "Ready", "status": "False"}], "VMI: Ready"),
        (("vmi", "metadata", "uid"), "v", "uid v, not u"),
        (("deployment", "conditions"), [], "deployment: Ready"),
    ],
)
def test_each_disturbance_is_found(path: tuple[Any, ...], value: Any, words: str) -> None:
    disturbed = copy.deepcopy(world())
    place: Any = disturbed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (found,) = disturbances(**disturbed)
    assert words in found


def test_the_age_of_a_pod_is_the_age_of_its_youngest_container() -> None:
    pod = world()["pod"]
    assert age_s(pod) == pytest.approx(500, abs=5)
    pod["status"]["containerStatuses"][0]["state"] = {"waiting": {}}
    assert age_s(pod) == 0.0


def test_the_hook_has_the_longest_timeout_and_probes_of_the_manifests_are_included() -> None:
    found = timeouts_s()
    assert max(found.values()) > APPEARS_WITHIN_S
    assert found["livenessProbe of operator"] == found["livenessProbe of cache"] == 60.0
