"""Reports belong to the requested run of a VM, and waiting for a cluster that does not answer has a deadline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from demo import console
from demo.console import read_guest, read_report
from demo.targets import DemoFailed, Target

LINE = "KIGI-GUEST machine=store state=clean boot={boot}\r\n"


@dataclass
class Cluster:
    """Simulates kubectl: pods by the uid of their VMI, with the logs of their consoles."""

    logs: dict[str, str] = field(default_factory=dict)
    broken: bool = False

    def get(self, kind: str, *arguments: str) -> dict[str, Any]:
        if self.broken:
            raise DemoFailed("kubectl get pods: did not end within 120 s")
        wanted = [part.partition("=")[2] for part in arguments[-1].split(",") if part.startswith("kubevirt.io/created")]
        return {
            "items": [
                {
                    "metadata": {"name": f"pod-{uid}", "creationTimestamp": f"2026-01-01T00:00:0{number}Z"},
                    "status": {"phase": "Running"},
                }
                for number, uid in enumerate(self.logs)
                if not wanted or uid in wanted
            ]
        }

    def kubectl(self, verb: str, *arguments: str, timeout_s: float) -> str:
        assert verb == "logs"
        return self.logs[arguments[2].removeprefix("pod-")]


def target(cluster: Cluster) -> Target:
    return cast(Target, cluster)


def test_a_report_belongs_to_the_requested_run() -> None:
    """After a reset both guests report the same machine, state and boot for a while."""
    cluster = Cluster({"old": LINE.format(boot=1)})
    assert read_report(target(cluster), "ns", "exercise-0-store", "new") == "no pod runs"
    assert isinstance(read_report(target(cluster), "ns", "exercise-0-store"), dict)
    cluster.logs["new"] = "booting"
    assert read_report(target(cluster), "ns", "exercise-0-store", "new") == "booting"
    cluster.logs["new"] += "\r\n" + LINE.format(boot=1)
    report = read_report(target(cluster), "ns", "exercise-0-store", "new")
    assert report == {"machine": "store", "state": "clean", "boot": "1"}


def test_the_newest_report_is_returned() -> None:
    cluster = Cluster({"a": LINE.format(boot=1) + LINE.format(boot=2)})
    assert read_guest(target(cluster), "ns", "exercise-0-store")["boot"] == "2"


def test_waiting_for_a_guest_without_reports_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.time, "sleep", lambda _: None)
    with pytest.raises(DemoFailed, match="ns/exercise-0-store reported nothing in 0 s; last: 'booting'"):
        read_guest(target(Cluster({"a": "booting"})), "ns", "exercise-0-store", timeout_s=0.05)


def test_a_timeout_of_the_api_server_is_part_of_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.time, "sleep", lambda _: None)
    with pytest.raises(DemoFailed, match="did not end within 120 s"):
        read_guest(target(Cluster(broken=True)), "ns", "exercise-0-store", timeout_s=0.05)
