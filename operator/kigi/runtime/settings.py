"""Settings of the operator, read from its environment once at start."""

from __future__ import annotations

import socket
import uuid
from typing import Any

from pydantic import Field

from kigi.adapters.environment import EnvironmentSettings, LogLevel

GC_THRESHOLD = (50_000, 20, 50)
"""For ``gc.set_threshold``. Plans are large and long-lived; with Python's default of 700 new objects, a fifth of the
time of a plan for 10,000 machines was spent on scanning them again."""


def _new_identity(data: dict[str, Any]) -> str:
    """A restarted pod keeps its name. The suffix prevents it from taking its predecessor's lease for its own."""
    return f"{data['pod_name'] or socket.gethostname()}_{uuid.uuid4().hex[:8]}"


class Settings(EnvironmentSettings):
    """Settings of ``kigi-operator``."""

    hook_image: str = Field(
        default="",
        validation_alias="KIGI_HOOK_IMAGE",
        description="Image of the hook sidecar in each VM's pod, where KubeVirt has no Plugins. Unset: the image of "
        "the Deployment kigi-operator, read when this operator begins to lead.",
        json_schema_extra={"default": "unset"},
    )
    namespace: str = Field(
        default="kigi-system",
        validation_alias="POD_NAMESPACE",
        description="Namespace of the lease; a pod takes it from metadata.namespace.",
    )
    pod_name: str = Field(
        default="",
        validation_alias="POD_NAME",
        description="Name of this pod, for the lease; a pod takes it from metadata.name.",
        json_schema_extra={"default": "the host's name"},
    )
    identity: str = Field(
        default_factory=_new_identity,
        validation_alias="KIGI_IDENTITY",
        description="Name of this process in the lease and in events. It must differ between processes.",
        json_schema_extra={"default": "POD_NAME and a random suffix"},
    )
    leader_election: bool = Field(
        default=True,
        validation_alias="KIGI_LEADER_ELECTION",
        description="Whether several operators may run, of which one works. false: this is the only one.",
    )
    http_host: str = Field(
        default="",
        validation_alias="KIGI_HTTP_HOST",
        description="Address where /metrics, /healthz and /readyz are served. Unset: every address, IPv4 and IPv6.",
        json_schema_extra={"default": "unset"},
    )
    http_port: int = Field(
        default=8080,
        ge=0,
        le=65535,
        validation_alias="KIGI_HTTP_PORT",
        description="Port of the same server; 0: any free port.",
    )
    workers: int = Field(
        default=8,
        ge=1,
        validation_alias="KIGI_WORKERS",
        description="Objects that are reconciled at the same time.",
    )
    concurrency: int = Field(
        default=32,
        ge=1,
        validation_alias="KIGI_API_CONCURRENCY",
        description="Requests to the API server in flight at the same time.",
    )
    request_timeout_s: float = Field(
        default=30.0,
        ge=1,
        validation_alias="KIGI_API_TIMEOUT_SECONDS",
        description="Time limit of one request to the API server, in seconds.",
    )
    resync_s: float = Field(
        default=240.0,
        ge=1,
        validation_alias="KIGI_RESYNC_SECONDS",
        description="Interval, in seconds, in which every object is listed and reconciled again.",
    )
    lease_s: float = Field(
        default=30.0,
        ge=3,
        validation_alias="KIGI_LEASE_SECONDS",
        # Stalls of 12 s were measured while ten guests booted on two cores.
        description="Duration of the lease, in seconds. It must be longer than an overloaded API server is silent.",
    )
    capture_max_pause_s: float = Field(
        default=60.0,
        ge=1,
        validation_alias="KIGI_CAPTURE_MAX_PAUSE_SECONDS",
        description="Longest time, in seconds, for which an attempt to capture pauses VMs.",
    )
    node_grace_s: float = Field(
        default=600.0,
        ge=0,
        validation_alias="KIGI_NODE_GRACE_SECONDS",
        description="Time, in seconds, for which the disks of a deleted Node wait for its return. Then they are given "
        "up, and their machines get new ones on other nodes; earlier if its NodeCache is deleted too.",
    )
    kubeconfig: str | None = Field(
        default=None,
        validation_alias="KUBECONFIG",
        description="Path of a kubeconfig. Unset: the pod's service account.",
    )
    log_level: LogLevel = Field(
        default="INFO",
        validation_alias="KIGI_LOG_LEVEL",
        description="Least severe log lines that are written: DEBUG, INFO, WARNING or ERROR.",
    )
