"""Settings of the daemon, from its environment, read once at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.names import CSI_DRIVER
from kigi.domain.quantities import parse_quantity

CONNECTIONS = max(4, os.cpu_count() or 1)
"""Default of KIGI_CONNECTIONS: one per processor, as each hashes what its connection brings."""


@dataclass(frozen=True, slots=True)
class Settings:
    """See each field; the variable that sets it is in ``from_environment``."""

    node_name: str
    root: Path
    """Directory of the cache: layers, parts and overlays, on one file system."""
    budget_bytes: int | None
    """Most that layers may take; None: ``budget_share`` of the file system."""
    budget_share: float
    min_free_bytes: int | None
    """Bytes of the file system that layers leave free; None: ``min_free_share`` of it."""
    min_free_share: float
    scrub_interval_s: float
    """Each layer is read again after that; 0: never."""
    scrub_bytes_per_s: int
    """Not faster than that; 0: no limit."""
    csi_socket: str
    csi_endpoint: str
    """The same socket's path as the kubelet sees it."""
    registration_dir: str | None
    """The kubelet's plugin registry; None: somebody else registers the driver."""
    repositories: Path | None
    connections: int
    """Layers that are fetched at once, each on a connection; fewer layers share them."""
    prefetches: int
    """Of these, layers that no disk waits for."""
    peer_host: str
    peer_port: int
    """Where other nodes fetch layers; 0: they do not."""
    peer_ip: str
    """Address of this pod."""
    peer_namespace: str
    peer_service: str
    """Headless Service of the daemons; empty: ``peer_members`` are all."""
    peer_members: tuple[str, ...]
    peer_token: Path
    http_host: str
    http_port: int
    max_volumes: int
    """Disks that one node may run; 0: no limit."""
    log_level: str


def from_environment(env: Mapping[str, str] = os.environ) -> Settings:
    """Settings from ``env``; ValueError with the variable's name when one is missing or makes no sense."""
    node_name = env.get("NODE_NAME", "")
    if not node_name:
        raise ValueError("NODE_NAME: the name of this node is required")
    host, _, port = env.get("KIGI_HTTP_ADDR", ":9780").rpartition(":")
    budget_bytes, share = _budget(env.get("KIGI_BUDGET_BYTES", ""), env.get("KIGI_BUDGET_PERCENT", "70"))
    min_free, min_free_share = _min_free(env.get("KIGI_MIN_FREE", "12%"))
    repositories = env.get("KIGI_REPOSITORIES", "")
    peer_host, _, peer_port = env.get("KIGI_PEER_ADDR", ":0").rpartition(":")
    connections = max(1, _whole("KIGI_CONNECTIONS", env.get("KIGI_CONNECTIONS", str(CONNECTIONS))))
    return Settings(
        node_name=node_name,
        root=Path(env.get("KIGI_CACHE_ROOT", "/var/lib/kigi")),
        budget_bytes=budget_bytes,
        budget_share=share,
        min_free_bytes=min_free,
        min_free_share=min_free_share,
        scrub_interval_s=3600.0 * _whole("KIGI_SCRUB_HOURS", env.get("KIGI_SCRUB_HOURS", "24")),
        scrub_bytes_per_s=_bytes("KIGI_SCRUB_BYTES_PER_S", env.get("KIGI_SCRUB_BYTES_PER_S", "50Mi")),
        csi_socket=env.get("KIGI_CSI_SOCKET", "/csi/csi.sock"),
        csi_endpoint=env.get("KIGI_CSI_ENDPOINT", f"/var/lib/kubelet/plugins/{CSI_DRIVER}/csi.sock"),
        registration_dir=env.get("KIGI_REGISTRATION_DIR") or None,
        repositories=Path(repositories) if repositories else None,
        connections=connections,
        prefetches=max(1, _whole("KIGI_PREFETCHES", env.get("KIGI_PREFETCHES", str(max(1, connections // 2))))),
        peer_host=peer_host or "0.0.0.0",
        peer_port=_whole("KIGI_PEER_ADDR", peer_port),
        peer_ip=env.get("POD_IP", "127.0.0.1"),
        peer_namespace=env.get("POD_NAMESPACE", "kigi-system"),
        peer_service=env.get("KIGI_PEER_SERVICE", ""),
        peer_members=tuple(member for member in env.get("KIGI_PEERS", "").split(",") if member),
        peer_token=Path(env.get("KIGI_PEER_TOKEN", "/var/run/secrets/kigi-peer/token")),
        http_host=host or "0.0.0.0",
        http_port=_whole("KIGI_HTTP_ADDR", port),
        max_volumes=_whole("KIGI_MAX_VOLUMES", env.get("KIGI_MAX_VOLUMES", "0")),
        log_level=env.get("KIGI_LOG_LEVEL", "INFO").upper(),
    )


def _budget(size: str, percent: str) -> tuple[int | None, float]:
    """Bytes or a quantity (``200Gi``) wins over the share of the file system."""
    try:
        share = float(percent.rstrip("%")) / 100
    except ValueError as exc:
        raise ValueError(f"KIGI_BUDGET_PERCENT: {percent!r} is not a number") from exc
    if not 0 < share <= 1:
        raise ValueError(f"KIGI_BUDGET_PERCENT: {percent!r} is not above 0 and at most 100")
    if not size:
        return None, share
    try:
        return parse_quantity(size), share
    except ValueError as exc:
        raise ValueError(f"KIGI_BUDGET_BYTES: {exc}") from exc


def _min_free(text: str) -> tuple[int | None, float]:
    """Bytes, or a share of the file system when it ends in %."""
    if not text.endswith("%"):
        return _bytes("KIGI_MIN_FREE", text), 0.0
    try:
        share = float(text.rstrip("%")) / 100
    except ValueError as exc:
        raise ValueError(f"KIGI_MIN_FREE: {text!r} is neither a size nor a number of percent") from exc
    if not 0 <= share < 1:
        raise ValueError(f"KIGI_MIN_FREE: {text!r} is not at least 0 % and below 100 %")
    return None, share


def _bytes(name: str, text: str) -> int:
    try:
        return parse_quantity(text)
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}") from exc


def _whole(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{name}: {text!r} is not a whole number")
    return int(text)
