"""Readiness probes and run strategies of VMs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.bodies import machine_body, target


@pytest.mark.parametrize(
    ("readiness", "probe"),
    [
        ({"guestAgentPing": {}}, {"guestAgentPing": {}}),
        ({"tcpSocket": {"port": 25}, "periodSeconds": 5}, {"tcpSocket": {"port": 25}, "periodSeconds": 5}),
        ({"httpGet": {"port": 80}}, {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}}),
        (
            {"exec": {"command": ["true"]}, "initialDelaySeconds": 9, "timeoutSeconds": 2, "failureThreshold": 4},
            {"exec": {"command": ["true"]}, "initialDelaySeconds": 9, "timeoutSeconds": 2, "failureThreshold": 4},
        ),
    ],
)
def test_readiness_becomes_a_readiness_probe(readiness: dict[str, Any], probe: dict[str, Any]) -> None:
    body = machine_body(target(settings={"readinessProbe": readiness}))
    assert body["spec"]["template"]["spec"]["readinessProbe"] == probe


def test_without_readiness_there_is_no_probe() -> None:
    assert "readinessProbe" not in machine_body(target())["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("policy", "running", "strategy"),
    [
        (None, True, "Always"),
        ("Restart", True, "Always"),
        ("Later", True, "Always"),
        ("StayOff", True, "RerunOnFailure"),
        ("StayOff", False, "Halted"),
        (None, False, "Halted"),
    ],
)
def test_the_run_strategy_follows_policy_and_target(policy: str | None, running: bool, strategy: str) -> None:
    assert (
        machine_body(target(settings={"guestPowerOffPolicy": policy}, running=running))["spec"]["runStrategy"]
        == strategy
    )
