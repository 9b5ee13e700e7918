"""Every metric of the operator."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BUILD = Gauge(
    "kigi_build_info",
    "1, with the version of Kigi and the protocol that the operator uses with the daemons.",
    ["version", "protocol"],
)
QUEUE_DEPTH = Gauge("kigi_queue_depth", "Objects that wait for a worker.")
RECONCILE_SECONDS = Histogram(
    "kigi_reconcile_seconds",
    "Duration of one reconcile, in seconds.",
    ["kind"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
RECONCILE_ERRORS = Counter("kigi_reconcile_errors_total", "Reconciles that ended in an error.", ["kind", "reason"])
STEPS = Counter("kigi_steps_total", "Steps carried out.", ["step"])
LEADER = Gauge("kigi_leader", "1 while this process leads.")
SYNCED = Gauge("kigi_mirror_synced", "1 when every kind has been listed.")
MIRROR_OBJECTS = Gauge("kigi_mirror_objects", "Objects in memory.", ["kind"])
MISSING_BYTES = Gauge(
    "kigi_deployment_missing_bytes", "Bytes of layers that the nodes do not hold yet.", ["namespace", "deployment"]
)
READY_INSTANCES = Gauge("kigi_deployment_ready_instances", "Ready instances.", ["namespace", "deployment"])
_CHANGE_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
INSTANCE_READY_SECONDS = Histogram(
    "kigi_instance_ready_seconds",
    "Time from a decision until all machines of the instance were as desired, in seconds, by action: Deployed, "
    "Switched, Reset, Renewed, or Recovered without new disks.",
    ["namespace", "deployment", "action"],
    buckets=_CHANGE_BUCKETS,
)
CAPTURE_SECONDS = Histogram(
    "kigi_capture_seconds",
    "Time from the creation of a SystemCapture until its state could be used, in seconds.",
    ["namespace", "deployment"],
    buckets=_CHANGE_BUCKETS,
)
REPOSITORY_READABLE = Gauge(
    "kigi_repository_readable",
    "1 if the last probe of a LayerRepository could read it with the credentials of the nodes, 0 if not.",
    ["repository"],
)
RESYNC_FOUND = Counter("kigi_resync_found_total", "Changes of objects that a resync found before a watch.", ["kind"])


def forget_objects() -> None:
    """Removes the series of every deployment and repository, when another operator takes over."""
    MISSING_BYTES.clear()
    READY_INSTANCES.clear()
    INSTANCE_READY_SECONDS.clear()
    CAPTURE_SECONDS.clear()
    REPOSITORY_READABLE.clear()
