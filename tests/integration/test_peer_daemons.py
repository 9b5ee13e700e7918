"""Two daemons as processes: each finds the other's certificate in its Lease on a real API server. Needs root."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kigi.domain.heartbeat import certificates_of, lease_name
from kigi.domain.names import NODE_API_VERSION
from kigi_cache.sources.peer_tokens import AUDIENCE
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port, is_listening
from localcluster.s3 import S3Server
from tests.support.chains import build_chain, layers_of
from tests.support.cluster import eventually
from tests.support.daemons import Node, daemon_env
from tests.support.layers import node_cache, upload, wanted
from tests.support.peers import client_context
from tests.support.raw_api import RawApi

CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
NAMES = ("peer-a", "peer-b")
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def nodes(tmp_path: Path, crds: ControlPlane, s3: S3Server, bucket: str) -> Iterator[tuple[Node, Node]]:
    """Two nodes that know each other; only the first one reaches the repository."""
    account = yaml.safe_dump({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "peer-daemons"}})
    crds.kubectl("apply", "-n", "default", "-f", "-", input_text=account)
    ports = {name: free_port() for name in NAMES}
    made = []
    for name in NAMES:
        token = tmp_path / f"{name}.token"
        made_token = crds.kubectl("create", "token", "peer-daemons", "-n", "default", f"--audience={AUDIENCE}")
        token.write_text(made_token.strip())
        env = daemon_env(crds.kubeconfig, s3, bucket) | {
            "POD_NAMESPACE": "default",
            "KIGI_PEER_ADDR": f"127.0.0.1:{ports[name]}",
            "KIGI_PEERS": ",".join(f"{other}=127.0.0.1:{ports[other]}" for other in NAMES if other != name),
            "KIGI_PEER_TOKEN": str(token),
        }
        made.append(Node(tmp_path / name, name, env if name == NAMES[0] else env | {"KIGI_S3_ENDPOINT": NOWHERE}))
    yield made[0], made[1]
    for node in made:
        node.close()


def test_a_daemon_fetches_from_another_one_whose_certificate_its_lease_publishes(
    crds: ControlPlane, s3: S3Server, bucket: str, tmp_path: Path, nodes: tuple[Node, Node]
) -> None:
    server, (first, second) = RawApi(crds.kubeconfig), nodes
    chain = layers_of(build_chain(tmp_path / "source"))
    upload(s3, bucket, tmp_path / "source", chain)
    for name in NAMES:
        server.create(CACHES, node_cache(name, layers=[layer.to_api() for layer in wanted(chain)])).object()

    def holds_all(name: str) -> bool:
        layers = server.get(f"{CACHES}/{name}").object().get("status", {}).get("layers") or []
        return {layer["digest"] for layer in layers if layer["state"] == "Held"} == {layer.digest for layer in chain}

    first.start().wait_ready()
    eventually(lambda: holds_all(NAMES[0]), what="the first node has all layers of the repository")
    lease = eventually(lambda: server.get(f"{LEASES}/{lease_name(NAMES[0])}").object(), what="it has a Lease")
    published = certificates_of(lease, NAMES[0])
    assert len(published) == 1

    second.start().wait_ready()
    eventually(lambda: holds_all(NAMES[1]), timeout_s=90, what="the second node has all layers of the first one")
    sent = re.search(r'^kigi_cache_peer_bytes_total{direction="sent"} (.+)$', first.get("/metrics"), re.MULTILINE)
    assert sent is not None
    assert float(sent[1]) == sum(layer.size_bytes for layer in chain)
    assert "certificate" not in second.log.read_text(), "nothing was refused"

    others = certificates_of(server.get(f"{LEASES}/{lease_name(NAMES[1])}").object(), NAMES[1])
    assert len(others | published) == 2, "each node has its own"
    with socket.create_connection(("127.0.0.1", _port(first))) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(4096), "nothing is answered in plain text"
    with (
        socket.create_connection(("127.0.0.1", _port(first))) as plain,
        pytest.raises(ssl.SSLError),
        client_context(ssl.TLSVersion.TLSv1_2).wrap_socket(plain),
    ):
        pass


def test_a_daemon_listens_for_peers_when_its_lease_has_its_certificate(
    crds: ControlPlane, nodes: tuple[Node, Node]
) -> None:
    server, (first, _) = RawApi(crds.kubeconfig), nodes
    for name in NAMES:
        server.delete(f"{CACHES}/{name}")
    first.start().wait_ready()
    assert not is_listening("127.0.0.1", _port(first)), "no Lease is written without a NodeCache"
    server.create(CACHES, node_cache(NAMES[0])).object()
    eventually(lambda: is_listening("127.0.0.1", _port(first)), what="it listens")
    with socket.create_connection(("127.0.0.1", _port(first))) as plain:
        shown = client_context().wrap_socket(plain).getpeercert(binary_form=True)
    assert shown is not None
    lease = server.get(f"{LEASES}/{lease_name(NAMES[0])}").object()
    assert hashlib.sha256(shown).hexdigest() in certificates_of(lease, NAMES[0])


def _port(node: Node) -> int:
    return int(node.setting("KIGI_PEER_ADDR").rpartition(":")[2])
