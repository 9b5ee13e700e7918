"""Settings of the daemon and of the capture publisher, read from the environment once at start."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from kigi.adapters.environment import EnvironmentSettings, LogLevel
from kigi.domain.names import CSI_DRIVER
from kigi.domain.quantities import parse_quantity

CONNECTIONS = max(4, os.cpu_count() or 1)
"""Default of KIGI_CONNECTIONS: one per processor, as each hashes what its connection brings."""
SECONDS_PER_HOUR = 3600.0
MAX_NODE_NAME = 63
"""Of a Kubernetes label's value. KubeVirt labels a VMI with its node: pkg/virt-controller/watch/vmi/lifecycle.go."""
KUBELET_ROOT = "/var/lib/kubelet"
MAX_SOCKET_PATH = 107
"""Longest path of a unix socket. Source: Linux unix(7)."""


@dataclass(frozen=True, slots=True)
class Portion:
    """A part of a file system: a number of bytes, or a percentage of its capacity."""

    size_bytes: int | None = None
    percent: float = 0.0

    def of(self, capacity_bytes: int) -> int:
        """The part in bytes, of a file system with that capacity."""
        if self.size_bytes is not None:
            return self.size_bytes
        return int(capacity_bytes * self.percent / 100)

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.size_bytes is None else str(self.size_bytes)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a server listens; port 0 turns it off or, for the HTTP server, takes any free port."""

    host: str
    """Without brackets; empty: every address, IPv4 and IPv6."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse_percent(text: object) -> object:
    return text.strip().removesuffix("%") if isinstance(text, str) else text


def _parse_bytes(text: object) -> object:
    return parse_quantity(text) if isinstance(text, str) else text


def _parse_portion(text: object) -> object:
    if not isinstance(text, str):
        return text
    if not text.endswith("%"):
        return Portion(size_bytes=parse_quantity(text))
    try:
        percent = float(text.removesuffix("%"))
    except ValueError as exc:
        raise ValueError("neither a size nor a percentage") from exc
    if not 0 <= percent < 100:
        raise ValueError("a percentage must be at least 0 and less than 100")
    return Portion(percent=percent)


def _parse_address(text: object) -> object:
    if not isinstance(text, str):
        return text
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("not host:port or :port, with a port from 0 to 65535")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address needs brackets, as in [::1]:9780")
    return ListenAddress(host.strip("[]"), int(port))


def _parse_ips(text: object) -> object:
    if not isinstance(text, str):
        return text
    return tuple(str(ipaddress.ip_address(part.strip())) for part in text.split(",") if part.strip())


def _check_node_name(name: str) -> str:
    if len(name) > MAX_NODE_NAME:
        raise ValueError(
            "KubeVirt runs no VMs on this node, because it labels them with the node's name, and a label has at most "
            f"{MAX_NODE_NAME} characters (this name: {len(name)}); join the node under a shorter name, or exclude it "
            "by the nodeSelector of DaemonSet kigi-node-cache"
        )
    return name


def _parse_peers(text: object) -> object:
    if not isinstance(text, str):
        return text
    peers: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        node, equals, address = part.partition("=")
        if not (node and equals and address.rpartition(":")[0] and address.rpartition(":")[2].isdigit()):
            raise ValueError(f"{part!r} is not NODE=HOST:PORT, such as node-b=10.0.0.2:9781")
        peers[address] = node
    return peers


# The JSON schemas are for the values of the Helm chart, where numbers may be numbers or texts.
_DECIMAL = r"[0-9]{1,20}(\.[0-9]{0,20})?"
_BYTES = rf"\+?{_DECIMAL}(([eE][+-]?[0-9]{{1,2}})|([KMGTPE]i|[numkKMGTPE])?)"
_PERCENT = r"([0-9]|[1-9][0-9])(\.[0-9]{1,20})?"
_POSITIVE = r"(0\.0{0,19}[1-9][0-9]{0,19}|([1-9]|[1-9][0-9])(\.[0-9]{1,20})?|100(\.0{1,20})?)"


def _number_or(pattern: str, **bounds: float) -> WithJsonSchema:
    kind = "integer" if pattern == _BYTES else "number"
    return WithJsonSchema({"anyOf": [{"type": kind, **bounds}, {"type": "string", "pattern": f"^{pattern}$"}]})


Percent = Annotated[
    float, BeforeValidator(_parse_percent), Field(gt=0, le=100),
    _number_or(rf"{_POSITIVE}%?", exclusiveMinimum=0, maximum=100),
]  # fmt: skip
Bytes = Annotated[int, BeforeValidator(_parse_bytes), Field(ge=0), _number_or(_BYTES, minimum=0)]
PortionText = Annotated[
    Portion, BeforeValidator(_parse_portion),
    WithJsonSchema({"type": "string", "pattern": f"^({_PERCENT}%|{_BYTES})$"}),
]  # fmt: skip
NodeNameText = Annotated[str, AfterValidator(_check_node_name)]
IpsText = Annotated[
    tuple[str, ...], BeforeValidator(_parse_ips), Field(min_length=1), WithJsonSchema({"type": "string"})
]
AddressText = Annotated[ListenAddress, BeforeValidator(_parse_address), WithJsonSchema({"type": "string"})]
PeersText = Annotated[Mapping[str, str], BeforeValidator(_parse_peers), WithJsonSchema({"type": "string"})]
Limit = Annotated[int, Field(ge=0), AfterValidator(lambda value: max(1, value))]
"""A limit of at least one; 0 counts as 1."""


class CacheSettings(EnvironmentSettings):
    """Settings that daemon and publisher share."""

    root: Path = Field(
        default=Path("/var/lib/kigi"),
        validation_alias="KIGI_CACHE_ROOT",
        description="Directory of layers, overlays and frozen copies. All of it must be on one file system.",
    )
    repositories: Path | None = Field(
        default=None,
        validation_alias="KIGI_REPOSITORIES",
        description="Folder with a file NAME.json for each repository, which the operator renders into a Secret. Its "
        "files are read again when they change. Unset: only the repository in KIGI_S3_ENDPOINT.",
    )
    log_level: LogLevel = Field(
        default="INFO",
        validation_alias="KIGI_LOG_LEVEL",
        description="Least severe log lines that are written: DEBUG, INFO, WARNING or ERROR.",
    )


class PublisherSettings(CacheSettings):
    """Settings of ``kigi-capture-publisher``."""


class DaemonSettings(CacheSettings):
    """Settings of ``kigi-cache``, the daemon of one node."""

    node_name: NodeNameText = Field(
        validation_alias="NODE_NAME",
        min_length=1,
        description="Name of this Kubernetes node; a pod takes it from spec.nodeName.",
    )
    budget_bytes: Bytes | None = Field(
        default=None,
        validation_alias="KIGI_BUDGET_BYTES",
        description="Disk space that layers may use, in bytes or as a quantity such as 200Gi. "
        "Overrides KIGI_BUDGET_PERCENT.",
    )
    budget_percent: Percent = Field(
        default=70.0,
        validation_alias="KIGI_BUDGET_PERCENT",
        description="Disk space that layers may use, in percent of their file system; above 0, at most 100.",
    )
    min_free: PortionText = Field(
        default=Portion(percent=12),
        validation_alias="KIGI_MIN_FREE",
        description="Disk space that layers leave free, in percent of their file system (12%), in bytes or as a "
        "quantity (20Gi). Keep it above the kubelet's eviction threshold, so that no pod is evicted for layers.",
    )
    overlay_headroom: Bytes = Field(
        default=256 * 2**20,
        validation_alias="KIGI_OVERLAY_HEADROOM",
        description="Disk space that is allocated in advance behind each running overlay, in bytes or as a quantity. A "
        "guest that fills the node's disk stops with its own VM, and the others go on within this space; 0: none.",
        json_schema_extra={"default": "256Mi"},
    )
    scrub_hours: int = Field(
        default=24,
        ge=0,
        validation_alias="KIGI_SCRUB_HOURS",
        description="Interval in hours in which every layer is read again and compared with its digest; 0: never.",
    )
    scrub_bytes_per_s: Bytes = Field(
        default=50 * 2**20,
        validation_alias="KIGI_SCRUB_BYTES_PER_S",
        description="Highest rate at which layers are read again, in bytes per second or as a quantity; 0: no limit.",
        json_schema_extra={"default": "50Mi"},
    )
    overlay_form: Literal["v1alpha2", "v1alpha1"] = Field(
        default="v1alpha2",
        validation_alias="KIGI_OVERLAY_FORM",
        description="v1alpha1: on the way back to the previous release, which knows no other form of an overlay. No "
        "disk is mounted, and each one gets the former form when its VM is off.",
    )
    kubelet_root: str | None = Field(
        default=None,
        max_length=MAX_SOCKET_PATH - len(f"/plugins_registry/{CSI_DRIVER}-reg.sock"),
        validation_alias="KIGI_KUBELET_ROOT",
        description="The kubelet's root directory, which the daemon sees at the same path: /var/lib/kubelet on most "
        "nodes. Unset: another program registers the driver.",
    )
    csi_socket: str = Field(
        default_factory=lambda data: f"{data['kubelet_root'] or KUBELET_ROOT}/plugins/{CSI_DRIVER}/csi.sock",
        max_length=MAX_SOCKET_PATH,
        validation_alias="KIGI_CSI_SOCKET",
        description="Path of the CSI socket as the daemon sees it.",
        json_schema_extra={"default": f"plugins/{CSI_DRIVER}/csi.sock in KIGI_KUBELET_ROOT"},
    )
    csi_endpoint: str = Field(
        default_factory=lambda data: data["csi_socket"],
        validation_alias="KIGI_CSI_ENDPOINT",
        description="Path of the CSI socket as the kubelet sees it.",
        json_schema_extra={"default": "KIGI_CSI_SOCKET"},
    )
    registration_dir: str | None = Field(
        default_factory=lambda data: data["kubelet_root"] and f"{data['kubelet_root']}/plugins_registry",
        validation_alias="KIGI_REGISTRATION_DIR",
        description="The kubelet's directory of plugin sockets.",
        json_schema_extra={"default": "plugins_registry in KIGI_KUBELET_ROOT, if that is set"},
    )
    connections: Limit = Field(
        default=CONNECTIONS,
        validation_alias="KIGI_CONNECTIONS",
        description="Connections to all repositories together, and layers fetched at the same time.",
        json_schema_extra={"default": "number of processors, at least 4"},
    )
    prefetches: Limit = Field(
        default_factory=lambda data: max(1, data["connections"] // 2),
        validation_alias="KIGI_PREFETCHES",
        description="Layers fetched at the same time that no disk waits for.",
        json_schema_extra={"default": "half of KIGI_CONNECTIONS"},
    )
    peer_address: AddressText = Field(
        default=ListenAddress("", 0),
        validation_alias="KIGI_PEER_ADDR",
        description="Address, as host:port, [host]:port or :port (every address, IPv4 and IPv6), where other nodes "
        "fetch layers from this one. Port 0: nodes do not fetch from each other.",
        json_schema_extra={"default": ":0"},
    )
    pod_ips: IpsText = Field(
        default=("127.0.0.1",),
        validation_alias="POD_IPS",
        description="IP addresses of this pod, separated by commas, where other nodes reach it; a pod takes them from "
        "status.podIPs. The first one is published, and peers are reached at addresses of its family if they have one.",
        json_schema_extra={"default": "127.0.0.1"},
    )
    pod_namespace: str = Field(
        default="kigi-system",
        validation_alias="POD_NAMESPACE",
        description="Namespace of this pod, of its node's Lease and of KIGI_PEER_SERVICE; a pod takes it from "
        "metadata.namespace.",
    )
    peer_service: str = Field(
        default="",
        validation_alias="KIGI_PEER_SERVICE",
        description="Headless Service of all daemons, whose endpoints are the peers. Unset: those in KIGI_PEERS.",
        json_schema_extra={"default": "unset"},
    )
    peers: PeersText = Field(
        default={},
        validation_alias="KIGI_PEERS",
        description="The peers as NODE=HOST:PORT, separated by commas, if there is no KIGI_PEER_SERVICE.",
        json_schema_extra={"default": "unset"},
    )
    peer_token: Path = Field(
        default=Path("/var/run/secrets/kigi-peer/token"),
        validation_alias="KIGI_PEER_TOKEN",
        description="File with the service account token that this daemon sends to its peers.",
    )
    http_address: AddressText = Field(
        default=ListenAddress("", 9780),
        validation_alias="KIGI_HTTP_ADDR",
        description="Address, as host:port, [host]:port or :port (every address, IPv4 and IPv6), of /metrics, /healthz "
        "and /readyz.",
    )
    max_volumes: int = Field(
        default=0,
        ge=0,
        validation_alias="KIGI_MAX_VOLUMES",
        description="Disks that this node may run, as reported to the kubelet; 0: no limit.",
    )

    kubeconfig: str | None = Field(
        default=None,
        validation_alias="KUBECONFIG",
        description="Path of a kubeconfig. Unset: the pod's service account.",
    )

    @property
    def budget(self) -> Portion:
        """Part of the file system that layers may use."""
        return Portion(self.budget_bytes, self.budget_percent)

    @property
    def scrub_interval_s(self) -> float:
        """Seconds in which every layer is read again; 0: never."""
        return self.scrub_hours * SECONDS_PER_HOUR
