"""What GitOps tools conclude from objects, by the tools' own code: Argo CD's Lua machine and diff, and kstatus.

``localcluster/go/gitops`` is the program. The table of docs/gitops.md has the mapping from kstatus to Argo CD's health.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from localcluster.build import binary
from tests.support import kstatus

ROOT = Path(__file__).parents[2]
ARGOCD_CM = ROOT / "manifests/gitops/argocd/argocd-cm.yaml"
HEALTH = {"Terminating": "Progressing", "InProgress": "Progressing", "Failed": "Degraded", "Current": "Healthy"}
"""kstatus -> health of Argo CD; a Current object whose VMs are all off is Suspended."""

Object = Mapping[str, Any]


class GitOps:
    """A running ``gitops-check``; each call is one line to it, and one line from it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seen: set[tuple[str, str]] = set()
        """Pairs (kind, health) of all objects so far."""

    @classmethod
    @contextmanager
    def running(cls, config: Path = ARGOCD_CM) -> Iterator[GitOps]:
        """The program with the scripts of this patch of the ConfigMap argocd-cm."""
        command = [str(binary("gitops-check")), str(config)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "gitops-check has ended; its error is above"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, (answer["error"], request)
        return answer

    def judge(self, body: Object) -> dict[str, Any]:
        """``health``, ``healthMessage``, ``status``, ``statusMessage`` and, if there are any, ``actions``."""
        answer = self._ask(object=dict(body))
        self.seen.add((body["kind"], answer["health"]))
        return answer

    def run_action(self, name: str, body: Object) -> list[dict[str, Any]]:
        """Objects that the action creates or patches, each with its ``operation`` and ``resource``."""
        answer = self._ask(object=dict(body), action=name)
        return list(answer["impacted"])

    def is_out_of_sync(self, desired: Object, live: Object) -> bool:
        """Whether Argo CD shows the live object as different from the one in Git."""
        return bool(self._ask(object=dict(live), desired=dict(desired)).get("outOfSync", False))

    def agree(self, body: Object) -> str:
        """Argo CD's health, after the comparison with kstatus, and of kstatus with tests/support/kstatus.py."""
        found = self.judge(body)
        assert found["status"] == kstatus.compute(body), (found, body)
        expected = HEALTH[found["status"]]
        if found["status"] == "Current" and is_off(body):
            expected = "Suspended"
        assert found["health"] == expected, (found, body)
        return str(found["health"])


def is_off(body: Object) -> bool:
    """Whether the object has VMs, and all of them should be off, when it is as desired."""
    status = body["status"]
    if body["kind"] == "SystemDeployment":
        return 0 < status.get("readyReplicas", 0) == status.get("stoppedReplicas", 0)
    return bool(body["kind"] == "SystemInstance" and status.get("runningMachines") == 0)
