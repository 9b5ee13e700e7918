"""Readiness probes and run strategies of VMs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.bodies import machine_body, target


@pytest.mark.parametrize(
    ("readiness", "probe"),
    [
        ({"guestAgent": True}, {"guestAgentPing": {}}),
        ({"tcpPort": 25, "periodSeconds": 5}, {"tcpSocket": {"port": 25}, "periodSeconds": 5}),
        ({"http": {"port": 80}}, {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}}),
        (
            {"exec": ["true"], "initialDelaySeconds": 9, "timeoutSeconds": 2, "failureThreshold": 4},
            {"exec": {"command": ["true"]}, "initialDelaySeconds": 9, "timeoutSeconds": 2, "failureThreshold": 4},
        ),
    ],
)
def test_readiness_becomes_a_readiness_probe(readiness: dict[str, Any], probe: dict[str, Any]) -> None:
    body = machine_body(target(template={"readiness": readiness}))
    assert body["spec"]["template"]["spec"]["readinessProbe"] == probe


def test_without_readiness_there_is_no_probe() -> None:
    assert "readinessProbe" not in machine_body(target())["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("template", "running", "strategy"),
    [({}, True, "Always"), ({"runStrategy": "RerunOnFailure"}, True, "RerunOnFailure"), ({}, False, "Halted")],
)
def test_the_run_strategy_follows_template_and_target(template: dict[str, Any], running: bool, strategy: str) -> None:
    assert machine_body(target(template=template, running=running))["spec"]["runStrategy"] == strategy
