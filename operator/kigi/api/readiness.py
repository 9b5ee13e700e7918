"""ReadinessProbe: the check by which a machine counts as ready; KubeVirt's shape."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kigi.api.base import Model, Rule


class GuestAgentPing(Model):
    """A ping of the guest agent; it has no fields."""


class TcpSocket(Model):
    """A TCP port of the guest that accepts connections."""

    port: int = Field(ge=1, le=65535, description="TCP port of the guest.")


class HttpGet(Model):
    """HTTP GET that a ready guest answers with a status from 200 to 399."""

    port: int = Field(ge=1, le=65535, description="TCP port of the guest.")
    path: str | None = Field(
        default=None, max_length=1024, pattern=r"^/", description="Path of the request; default /."
    )
    scheme: Literal["HTTP", "HTTPS"] | None = Field(
        default=None,
        description="HTTP or HTTPS; default HTTP; further values may be added, treat an unknown one as HTTP.",
    )


class Exec(Model):
    """A command that the guest agent runs."""

    command: list[Annotated[str, Field(max_length=1024)]] = Field(
        min_length=1,
        max_length=32,
        description="Command and arguments; ready when it exits with 0.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


def _seconds(description: str, least: int, most: int = 3600) -> int | None:
    field: int | None = Field(default=None, ge=least, le=most, description=description)
    return field


class ReadinessProbe(Model):
    """Readiness check of the guest; without it a machine is ready as soon as its VM runs."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.guestAgentPing), has(self.tcpSocket), has(self.httpGet), has(self.exec)].exists_one(x, x)",
            "readinessProbe: give exactly one of guestAgentPing: {}, tcpSocket, httpGet and exec",
        ),
    )

    guest_agent_ping: GuestAgentPing | None = Field(
        default=None, description="Ready when the guest agent answers a ping."
    )
    tcp_socket: TcpSocket | None = Field(default=None, description="Ready when this TCP port accepts connections.")
    http_get: HttpGet | None = Field(default=None, description="Ready when this HTTP request succeeds.")
    exec: Exec | None = Field(default=None, description="Ready when this command succeeds in the guest.")
    initial_delay_seconds: int | None = _seconds("Seconds before the first check; default 0.", 0)
    period_seconds: int | None = _seconds("Seconds between checks; default 10.", 1)
    timeout_seconds: int | None = _seconds("Timeout of one check in seconds; default 1.", 1)
    failure_threshold: int | None = _seconds(
        "Consecutive failures after which the guest is not ready any more; default 3.", 1, 100
    )
