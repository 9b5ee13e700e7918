"""Configuration of the operator: typed, from the environment, read once at start."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

GC_THRESHOLD = (50_000, 20, 50)
"""For ``gc.set_threshold``: plans are large and live on; Python's default walks them again every 700 new objects, which
was a fifth of the time of a plan for 10,000 machines."""


@dataclass(frozen=True)
class Settings:
    """See each variable in ``from_environment``."""

    hook_image: str = "kigi:dev"
    namespace: str = "kigi-system"
    identity: str = ""
    leader_election: bool = True
    http_host: str = "0.0.0.0"
    http_port: int = 8080
    workers: int = 8
    concurrency: int = 32
    request_timeout_s: float = 30.0
    resync_s: float = 300.0
    lease_s: float = 30.0
    """Longer than an overloaded API server is silent: stalls of 12 s were seen while ten guests booted on two cores."""
    kubeconfig: str | None = None
    log_level: str = "INFO"

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Raises ValueError that names the variable."""
        name = env.get("POD_NAME") or socket.gethostname()
        return cls(
            hook_image=env.get("KIGI_HOOK_IMAGE", cls.hook_image),
            namespace=env.get("POD_NAMESPACE", cls.namespace),
            # A restarted pod keeps its name: the suffix keeps it from taking its predecessor's lease for its own.
            identity=f"{name}_{uuid.uuid4().hex[:8]}",
            leader_election=_flag(env, "KIGI_LEADER_ELECTION", True),
            http_host=env.get("KIGI_HTTP_HOST", cls.http_host),
            http_port=int(_number(env, "KIGI_HTTP_PORT", cls.http_port, least=0)),
            workers=int(_number(env, "KIGI_WORKERS", cls.workers, least=1)),
            concurrency=int(_number(env, "KIGI_API_CONCURRENCY", cls.concurrency, least=1)),
            request_timeout_s=_number(env, "KIGI_API_TIMEOUT_SECONDS", cls.request_timeout_s, least=1),
            resync_s=_number(env, "KIGI_RESYNC_SECONDS", cls.resync_s, least=1),
            lease_s=_number(env, "KIGI_LEASE_SECONDS", cls.lease_s, least=3),
            kubeconfig=env.get("KUBECONFIG") or None,
            log_level=env.get("KIGI_LOG_LEVEL", cls.log_level).upper(),
        )


def _number(env: Mapping[str, str], name: str, default: float, *, least: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as exc:
        raise ValueError(f"{name}={text!r}: not a number") from exc
    if value < least:
        raise ValueError(f"{name}={text!r}: must be at least {least:g}")
    return value


def _flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").lower()
    if text in ("", "1", "true", "yes"):
        return default if not text else True
    if text in ("0", "false", "no"):
        return False
    raise ValueError(f"{name}={text!r}: must be true or false")
