"""A sample never raises: a part that cannot be read is None, and its error is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from demo.targets import DemoFailed, Target
from localcluster.cluster import Cluster
from soak.sampling import Sampler


@dataclass
class Api:
    """Simulates kubectl."""

    items: list[dict[str, Any]] = field(default_factory=list)
    broken: str = ""
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def kubectl(self, *arguments: str, timeout_s: float) -> str:
        self.asked.append(arguments)
        if self.broken and any(self.broken in argument for argument in arguments):
            raise DemoFailed(f"no end within {timeout_s:.0f} s")
        if "--raw" in arguments:
            return 'apiserver_resource_objects{group="",resource="pods"} 1\n'
        return json.dumps({"items": [] if "events" in arguments else self.items})


class Node:
    """Simulates a node with the probe."""

    name = "n1"
    answer = '{"mounts": ["/ (ext4)"], "processes": {}, "logs": {}, "offsets": {"a.log": 5}}'

    def __init__(self) -> None:
        self.requests: list[str] = []

    def enter(self, *command: str, timeout_s: float) -> str:
        self.requests.append(command[-1])
        return self.answer


def sampler(api: Api, node: Node, gate: str = "Sidecar") -> Sampler:
    cluster = SimpleNamespace(nodes=lambda: [node], release=SimpleNamespace(gate=gate))
    return Sampler(cast(Cluster, cluster), cast(Target, api))


def pod(**status: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "p", "uid": "u", "resourceVersion": "1"}, "status": status}


def test_changes_are_relative_to_the_previous_sample() -> None:
    api, node = Api([pod(phase="Pending")]), Node()
    one = sampler(api, node)
    assert one.take().changes == ()
    api.items = [pod(phase="Running")]
    (change,) = one.take().changes
    assert (change.object, change.path, change.old, change.new) == ("Pod p", "status.phase", "Pending", "Running")
    assert [json.loads(request) for request in node.requests] == [{"offsets": None}, {"offsets": {"a.log": 5}}]


def test_after_a_failed_read_the_next_sample_is_compared_with_the_last_readable_one() -> None:
    api = Api([pod(phase="Pending")])
    one = sampler(api, Node())
    one.take()
    api.broken = "pods"
    failed = one.take()
    assert failed.objects is None
    assert failed.counts == {"pods": 1}
    assert failed.failures == ("objects: DemoFailed: no end within 60 s",)
    api.broken, api.items = "", [pod(phase="Running")]
    assert len(one.take().changes) == 1


def test_a_failure_of_a_node_or_of_its_output_is_in_the_sample() -> None:
    node = Node()
    node.answer = "not JSON"
    failed = sampler(Api([{"kind": "Pod"}]), node).take()
    assert (failed.objects, failed.nodes) == (None, {})
    assert [failure.split(":")[0] for failure in failed.failures] == ["objects", "node n1"]


def test_plugins_are_read_if_kubevirt_has_them() -> None:
    for gate, there in (("Sidecar", False), ("Plugins", True)):
        api = Api()
        sampler(api, Node(), gate).take()
        assert ("plugins.plugin.kubevirt.io" in api.asked[0][1]) == there
