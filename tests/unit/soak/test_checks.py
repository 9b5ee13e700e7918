"""Each kind of fault is a finding, and a run in which only heartbeats change has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from soak import checks, report
from soak.model import Change, Condition, Container, LogGrowth, NodeState, ObjectState, Process, Sample, WarningEvent

POD, DEPLOYMENT, CACHE, LEASE = "Pod soak/vm", "SystemDeployment soak/exercise", "NodeCache n1", "Lease kigi-system/k"
OPERATOR, LOG = "kigi-operator 10@500", "kigi-system/kigi-operator-0/operator"
MIB = 2**20
COUNT = 80
READY = Condition("True", "Deployed", "10 of 10 machines run", "2026-11-23T10:00:00Z")


def sample(number: int) -> Sample:
    """A clean sample: heartbeats are written, numbers of connections and the heap vary, few lines are logged."""
    container = Container("containerd://1", True, 0, "running")
    return Sample(
        at_s=15.0 * number,
        time="2026-11-23T10:00:00Z",
        took_s=1.0,
        objects={
            POD: ObjectState("u1", "100", "Running", {"Ready": Condition("True")}, {"compute": container}),
            DEPLOYMENT: ObjectState("u2", "101", "", {"Ready": READY}, writers={"kigi/status": "10:00"}),
            CACHE: ObjectState("u3", str(200 + number), writers={"kigi-cache/status": f"11:{number}"}),
            LEASE: ObjectState("u4", str(300 + number), "operator-0"),
        },
        events={"Normal Started Pod soak/vm": 1},
        warnings={"e1": WarningEvent(POD, "FailedMount", "before the run", 2)},
        counts={"pods": 20},
        nodes={
            "n1": NodeState(
                mounts=("/var/lib/kubelet/pods/1 (ext4)", "/var/lib/kubelet/pods/1 (ext4)"),
                processes={OPERATOR: Process(20 + number % 3, 90 * MIB + (number % 4) * MIB, 0.1 * number)},
                logs={LOG: LogGrowth(lines=1, size_bytes=150)},
            )
        },
    )


def run(change: Callable[[Sample], Sample] | None = None, since: int = COUNT // 2) -> list[Sample]:
    """A clean run in which the samples from ``since`` on are changed."""
    clean = [sample(number) for number in range(COUNT)]
    return clean if change is None else [*clean[:since], *map(change, clean[since:])]


def edit(name: str, **fields: Any) -> Callable[[Sample], Sample]:
    """A change of one object in a sample."""
    return lambda old: replace(old, objects={**(old.objects or {}), name: replace((old.objects or {})[name], **fields)})


def node(**fields: Any) -> Callable[[Sample], Sample]:
    """A change of the node in a sample."""
    return lambda old: replace(old, nodes={"n1": replace((old.nodes or {})["n1"], **fields)})


def container(**fields: Any) -> Callable[[Sample], Sample]:
    one = replace(Container("containerd://1", True, 0, "running"), **fields)
    return edit(POD, containers={"compute": one})


def growing(per_sample: Callable[[int], Process]) -> Callable[[Sample], Sample]:
    def change(old: Sample) -> Sample:
        return node(processes={OPERATOR: per_sample(round(old.at_s / 15))})(old)

    return change


def without(part: str) -> Callable[[Sample], Sample]:
    return lambda old: replace(old, objects={name: one for name, one in (old.objects or {}).items() if name != part})


FAULTS: dict[str, tuple[str, str, list[Sample]]] = {
    "condition": (
        "conditions",
        DEPLOYMENT,
        run(edit(DEPLOYMENT, conditions={"Ready": Condition("False", "Restarting")})),
    ),
    "message of a condition": (
        "conditions",
        DEPLOYMENT,
        run(edit(DEPLOYMENT, conditions={"Ready": replace(READY, message="10 of 10 machines run ")})),
    ),
    "transition of a condition": (
        "conditions",
        DEPLOYMENT,
        run(edit(DEPLOYMENT, conditions={"Ready": replace(READY, transition="2026-11-23T10:05:00Z")})),
    ),
    "condition removed": ("conditions", DEPLOYMENT, run(edit(DEPLOYMENT, conditions={}))),
    "restart": ("restarts", POD, run(container(id="containerd://2", restarts=1))),
    "another container": ("restarts", POD, run(container(id="containerd://2"))),
    "not ready": ("not ready", POD, run(container(ready=False, state="terminated"))),
    "never ready": ("not ready", POD, run(container(ready=False, state="waiting"), since=0)),
    "phase": ("phase", POD, run(edit(POD, phase="Failed"))),
    "leader": ("phase", LEASE, run(edit(LEASE, phase="operator-1"))),
    "object deleted": ("objects", POD, run(without(POD))),
    "object created": (
        "objects",
        "Job a/b",
        run(lambda old: replace(old, objects={**(old.objects or {}), "Job a/b": ObjectState("u9", "1")})),
    ),
    "object recreated": ("objects", POD, run(edit(POD, uid="u5"))),
    "field": (
        "changes",
        DEPLOYMENT,
        run(lambda old: replace(old, changes=(Change(DEPLOYMENT, "status.plan.missingBytes", "0", "5"),))),
    ),
    "write without effect": ("writes", DEPLOYMENT, run(edit(DEPLOYMENT, version="102", writers={"kubectl": "11:00"}))),
    "stored objects": ("stored objects", "pods", run(lambda old: replace(old, counts={"pods": 21}))),
    "new kind of objects": ("stored objects", "jobs", run(lambda old: replace(old, counts={"pods": 20, "jobs": 1}))),
    "warning": (
        "warning events",
        POD,
        run(lambda old: replace(old, warnings={"e2": WarningEvent(POD, "Unhealthy", "probe failed", 1)})),
    ),
    "warning repeated": (
        "warning events",
        POD,
        run(lambda old: replace(old, warnings={"e1": WarningEvent(POD, "FailedMount", "again", 3)})),
    ),
    "mount added": ("mounts", "n1", run(node(mounts=("/var/lib/kubelet/pods/1 (ext4)",) * 3))),
    "mount removed": ("mounts", "n1", run(node(mounts=("/var/lib/kubelet/pods/1 (ext4)",)))),
    "process replaced": (
        "processes",
        f"n1 {OPERATOR}",
        run(node(processes={"kigi-operator 11@600": Process(1, 1, 0)})),
    ),
    "descriptors": ("descriptors", f"n1 {OPERATOR}", run(growing(lambda n: Process(20 + n // 4, 90 * MIB, 0)))),
    "memory": ("memory", f"n1 {OPERATOR}", run(growing(lambda n: Process(20, (60 + n) * MIB, 0)))),
    "log rate in lines": ("log rate", LOG, run(node(logs={LOG: LogGrowth(lines=6, size_bytes=60)}))),
    "log rate in bytes": ("log rate", LOG, run(node(logs={LOG: LogGrowth(lines=1, size_bytes=4000)}))),
    "log error": ("log errors", LOG, run(node(logs={LOG: LogGrowth(1, 60, 0, 1, ("it failed",))}))),
    "failed sample": (
        "sample",
        "objects",
        run(lambda old: replace(old, failures=("objects: DemoFailed: no end within 60 s",), objects=None)),
    ),
    "nothing readable": ("sample", "nodes", run(lambda old: replace(old, nodes=None), since=1)),
}


def test_a_run_with_nothing_but_heartbeats_has_no_findings() -> None:
    assert checks.find(run()) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_a_finding_of_its_check_and_subject(name: str) -> None:
    check, subject, samples = FAULTS[name]
    assert (check, subject) in {(finding.check, finding.subject) for finding in checks.find(samples)}


def test_an_unready_container_is_reported_once_per_unready_period() -> None:
    changed = {10, 11, 12, 30}
    samples = [container(ready=False)(one) if number in changed else one for number, one in enumerate(run())]
    assert [finding.at_s for finding in checks.not_ready(samples)] == [150.0, 450.0]


def test_a_finished_pod_may_be_unready() -> None:
    finished = run(
        edit(POD, phase="Succeeded", containers={"main": Container("c", False, 0, "terminated")}),
        since=0,
    )
    assert checks.find(finished) == []


def test_a_failed_sample_is_skipped_and_a_change_across_it_is_found() -> None:
    samples = run(edit(POD, phase="Failed"))
    samples[COUNT // 2] = replace(sample(COUNT // 2), objects=None, failures=("objects: timeout",))
    assert {finding.check for finding in checks.find(samples)} == {"sample", "phase"}


@pytest.mark.parametrize(("object_", "findings"), [("Deployment kubevirt/virt-api", 0), ("Pod soak/vm", 1)])
def test_an_event_that_kubevirt_repeats_is_not_a_finding(object_: str, findings: int) -> None:
    event = WarningEvent(object_, "AdvancedFeatureUse", "applying custom number of infra replica", 100)
    samples = run(lambda old: replace(old, warnings={"e3": event}))
    assert len(list(checks.warning_events(samples))) == findings


def test_an_expired_warning_event_is_not_a_finding() -> None:
    assert checks.find(run(lambda old: replace(old, warnings={}, events={}))) == []


def test_a_finding_has_the_writer_of_the_object() -> None:
    (finding,) = checks.writes(run(edit(DEPLOYMENT, version="102", writers={"kigi/status": "11:00"})))
    assert "written in 1 of 79 intervals, by kigi/status" in finding.text


def test_an_instance_may_report_what_guests_write_and_not_write_all_the_time() -> None:
    name = "SystemInstance soak/office-1"

    def written(times: int) -> list[checks.Sample]:
        states = [
            replace(run()[0].objects[DEPLOYMENT], version=str(100 + min(number, times))) for number in range(COUNT)
        ]
        return [replace(one, objects={name: state}) for one, state in zip(run(), states, strict=True)]

    assert list(checks.writes(written(checks.MAY_REPORT))) == []
    (finding,) = checks.writes(written(checks.MAY_REPORT + 1))
    assert f"written in {checks.MAY_REPORT + 1} of" in finding.text


def test_memory_growth_during_warm_up_is_not_a_finding() -> None:
    warm = round(checks.WARM_S / 15)
    assert checks.find(run(growing(lambda n: Process(20, (60 + min(n, warm)) * MIB, 0)), since=0)) == []


def test_the_warm_up_of_a_short_run_is_its_first_half() -> None:
    samples = run(growing(lambda n: Process(20, (60 + n) * MIB, 0)), since=0)[:38]
    assert [finding.check for finding in checks.find(samples)] == ["memory"]


def test_no_sample_at_all_is_a_finding() -> None:
    assert {finding.check for finding in checks.find([])} == {"sample"}


def test_the_report_of_any_run_can_be_built_and_shown() -> None:
    for samples in ([], run()[:1], run(), *(faulty for _, _, faulty in FAULTS.values())):
        findings = checks.find(samples)
        figures = report.build(samples, findings, {})
        assert figures["clean"] == (not findings)
        assert len(report.tables(figures)) == 2
        assert len(report.lines(findings)) <= 4 * len({(one.check, one.subject) for one in findings})


def test_the_report_counts_writes_logs_and_processes() -> None:
    figures = report.build(run(), [], {})
    assert figures["writes"] == {CACHE: COUNT - 1, LEASE: COUNT - 1}
    assert figures["logs"][LOG]["linesPerMinute"] == 4.0
    process = figures["processes"][f"n1 {OPERATOR}"]
    assert (process["descriptorsFirst"], process["descriptorsLast"], process["mibMost"]) == (20, 20, 93.0)
