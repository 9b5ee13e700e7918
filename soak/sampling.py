"""Takes samples of a running cluster: API objects by kubectl, nodes by a probe inside each node."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from demo.targets import DemoFailed, Target
from localcluster.cluster import Cluster
from localcluster.node import Node
from soak import objects
from soak.model import Change, LogGrowth, NodeState, ObjectState, Process, Sample, WarningEvent

KINDS = (
    *(
        "systemdeployments",
        "systeminstances",
        "systemnodes",
        "vmimagenodes",
        "nodecaches",
        "systemcaptures",
        "systemprefetches",
    ),
    *("virtualmachines", "virtualmachineinstances", "kubevirts", "pods", "persistentvolumes"),
    *("persistentvolumeclaims", "deployments.apps", "daemonsets.apps", "nodes", "leases.coordination.k8s.io"),
)
REQUEST_S, KUBECTL_S = 20, 60
"""Timeout of one request, and of one kubectl command with all its requests."""
PROBE_S = 45
_PROBE = Path(__file__).with_name("probe.py")
_ERRORS = (DemoFailed, RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError)
_Part = TypeVar("_Part")


class Sampler:
    """Takes samples; keeps objects and log offsets of the previous sample for the comparison with the next one."""

    def __init__(self, cluster: Cluster, target: Target) -> None:
        self._target = target
        self._nodes: Sequence[Node] = cluster.nodes()
        self._offsets: dict[str, dict[str, int] | None] = {}
        self._essences: dict[str, dict[str, Any]] = {}
        self._kinds = KINDS + (("plugins.plugin.kubevirt.io",) if cluster.release.gate == "Plugins" else ())
        self._started = time.monotonic()

    def take(self) -> Sample:
        """Take one sample. Does not raise: a part that cannot be read is None, with its error in ``failures``."""
        began = time.monotonic()
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        failures: list[str] = []
        read = _attempt(failures, "objects", self._objects)
        events = _attempt(failures, "events", self._events)
        counts = _attempt(failures, "counts", self._counts)
        nodes = {node.name: _attempt(failures, f"node {node.name}", partial(self._probe, node)) for node in self._nodes}
        return Sample(
            at_s=round(began - self._started, 1),
            time=when,
            took_s=round(time.monotonic() - began, 1),
            failures=tuple(failures),
            objects=None if read is None else read[0],
            changes=() if read is None else read[1],
            events=None if events is None else events[0],
            warnings=None if events is None else events[1],
            counts=counts,
            nodes={name: node for name, node in nodes.items() if node is not None},
        )

    def _objects(self) -> tuple[dict[str, ObjectState], tuple[Change, ...]]:
        """States of all objects, and changes since the last readable sample.

        Created and deleted objects are not among the changes.
        """
        items = self._get(",".join(self._kinds), "--show-managed-fields")
        states = {objects.key(item): objects.state(item) for item in items}
        essences = {objects.key(item): objects.essence(item) for item in items}
        changes = tuple(
            change
            for name in sorted(self._essences.keys() & essences.keys())
            for change in objects.differences(name, self._essences[name], essences[name])
        )
        self._essences = essences
        return states, changes

    def _events(self) -> tuple[dict[str, int], dict[str, WarningEvent]]:
        items = self._get("events")
        return objects.event_counts(items), objects.warning_events(items)

    def _counts(self) -> dict[str, int]:
        return objects.stored_objects(self._kubectl("get", "--raw", "/metrics"))

    def _get(self, *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self._kubectl("get", *arguments, "-A", "-o", "json"))["items"]
        return items

    def _kubectl(self, *arguments: str) -> str:
        return self._target.kubectl(*arguments, f"--request-timeout={REQUEST_S}s", timeout_s=KUBECTL_S)

    def _probe(self, node: Node) -> NodeState:
        request = json.dumps({"offsets": self._offsets.get(node.name)})
        answer = json.loads(node.enter(sys.executable, str(_PROBE), request, timeout_s=PROBE_S))
        self._offsets[node.name] = answer["offsets"]
        return node_state(answer)


def node_state(answer: Mapping[str, Any]) -> NodeState:
    """NodeState from the JSON output of ``probe.py``."""
    return NodeState(
        mounts=tuple(answer["mounts"]),
        processes={name: Process(**figures) for name, figures in answer["processes"].items()},
        logs={
            name: LogGrowth(**{**growth, "examples": tuple(growth["examples"])})
            for name, growth in answer["logs"].items()
        },
    )


def _attempt(failures: list[str], what: str, read: Callable[[], _Part]) -> _Part | None:
    try:
        return read()
    except _ERRORS as exc:
        failures.append(f"{what}: {type(exc).__name__}: {str(exc)[:500]}")
        return None
