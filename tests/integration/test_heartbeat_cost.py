"""What an idle node writes: a Lease, compared with a heartbeat in the status of its NodeCache, in one run."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable

import pytest

from kigi.domain.heartbeat import HEARTBEAT_S, build_lease, lease_name
from kigi.domain.names import NODE_API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.layers import node_cache
from tests.support.raw_api import RawApi

LAYERS = 100
WRITES = 60
LEAST_RATIO = 20
"""A Lease costs at most a twentieth of the status; measured: see docs/decisions/0019."""
CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@pytest.fixture
def server(crds: ControlPlane) -> RawApi:
    return RawApi(crds.kubeconfig)


def stored_bytes(plane: ControlPlane) -> float:
    """Bytes that etcd has received from the API server since its start."""
    with urllib.request.urlopen(f"{plane.etcd_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    (found,) = re.findall(r"^etcd_network_client_grpc_received_bytes_total (\S+)$", text, re.MULTILINE)
    return float(found)


def bytes_per_write(plane: ControlPlane, write: Callable[[int], object]) -> float:
    before = stored_bytes(plane)
    for number in range(WRITES):
        write(number)
    return (stored_bytes(plane) - before) / WRITES


def test_a_heartbeat_writes_a_small_part_of_what_a_status_writes(
    crds: ControlPlane, server: RawApi, record_property: Callable[[str, object], None]
) -> None:
    name = "idle-node"
    digests = [f"sha256:{number:064x}" for number in range(LAYERS)]
    sizes = {"sizeBytes": 2**28, "virtualSizeBytes": 2**34, "repositoryName": "default", "purpose": "Disk"}
    layers = [
        {"digest": digest, **sizes, **({"parentDigest": digests[number - 1]} if number else {})}
        for number, digest in enumerate(digests)
    ]
    cache = server.create(CACHES, node_cache(name, layers=layers)).object()
    held = [{"digest": digest, "state": "Held", "need": "Running", "links": 1} for digest in digests]
    server.patch(f"{CACHES}/{name}/status", {"status": {"observedGeneration": 1, "layers": held}}).object()
    owner = (name, cache["metadata"]["uid"])
    server.create(LEASES, build_lease(name, "default", cache=owner, time="2026-01-01T00:00:00.000000Z")).object()

    def as_a_status(number: int) -> None:
        server.patch(f"{CACHES}/{name}/status", {"status": {"freeBytes": number + 1}}).object()

    def as_a_lease(number: int) -> None:
        lease = build_lease(name, "default", cache=owner, time=f"2026-01-01T00:00:{number:02}.000000Z")
        server.patch(f"{LEASES}/{lease_name(name)}", lease).object()

    try:
        status, lease = bytes_per_write(crds, as_a_status), bytes_per_write(crds, as_a_lease)
    finally:
        server.delete(f"{LEASES}/{lease_name(name)}")
        server.delete(f"{CACHES}/{name}")
    each_minute = 60 / HEARTBEAT_S
    for what, size in (("status", status), ("lease", lease)):
        record_property(f"{what}_bytes_per_idle_minute", round(size * each_minute))
    print(f"bytes per idle minute: status {status * each_minute:.0f}, Lease {lease * each_minute:.0f}")
    assert status > LEAST_RATIO * lease
