"""Node cache daemons as processes; each has its own root, sockets and mount namespace, which simulate a node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import grpc

from kigi.domain.layers import Chain
from kigi_cache.disks.mounts import Mount, parse_mountinfo
from kigi_cache.rpc import csi_pb2 as pb
from localcluster.processes import free_port
from localcluster.s3 import S3Server
from tests.support.chains import chain_attribute
from tests.support.cluster import eventually
from tests.support.layers import environment


class Node:
    """A simulated node: a mount namespace that persists over restarts of the daemon, and the daemon in it."""

    def __init__(self, directory: Path, name: str, env: Mapping[str, str]) -> None:
        self.name = name
        self.root = directory / "cache"
        self.pods = directory / "pods"
        # The path of a socket has at most 107 characters.
        self._sockets = tempfile.TemporaryDirectory(prefix="kigi-node-")
        self.socket = Path(self._sockets.name) / "csi.sock"
        self.registration = Path(self._sockets.name) / "registration"
        self.log = directory / "daemon.log"
        self.http_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        for path in (self.root, self.pods, self.registration):
            path.mkdir(parents=True, exist_ok=True)
        self._env = {
            **os.environ,
            "NODE_NAME": name,
            "KIGI_CACHE_ROOT": str(self.root),
            "KIGI_BUDGET_BYTES": "1Gi",
            "KIGI_MIN_FREE": "0",
            "KIGI_CSI_SOCKET": str(self.socket),
            "KIGI_CSI_ENDPOINT": str(self.socket),
            "KIGI_REGISTRATION_DIR": str(self.registration),
            "KIGI_HTTP_ADDR": f"127.0.0.1:{self.http_port}",
            **env,
        }
        # The namespace shares mounts within itself, like the daemon's host path: a mount for a pod is visible below the
        # cache too. Unmounting nsfs lets the kernel remove network namespaces of other pods on this machine.
        script = "umount -l -a -t nsfs; mount --make-rshared / && exec sleep infinity"
        self._namespace = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script])
        comm = Path(f"/proc/{self._namespace.pid}/comm")
        eventually(lambda: comm.read_text() == "sleep\n", what="the namespace is made before the program in it runs")

    def setting(self, variable: str) -> str:
        """A variable of the daemon's environment."""
        return self._env[variable]

    def __enter__(self) -> Self:
        return self.start().wait_ready()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, **env: str) -> Self:
        """Start the daemon."""
        command = ["nsenter", "-t", str(self._namespace.pid), "-m", sys.executable, "-m", "kigi_cache.main"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env={**self._env, **env}, stderr=log, stdout=log)
        return self

    def wait_ready(self, timeout_s: float = 30) -> Self:
        """Wait for the CSI socket to answer."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"the daemon ended:\n{self.log.read_text()[-4000:]}"
            try:
                if self.call("Identity/Probe", pb.ProbeRequest(), pb.ProbeResponse, timeout_s=2).ready.value:
                    return self
            except grpc.RpcError:
                time.sleep(0.05)
        raise AssertionError(f"the daemon does not answer:\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """Kill the daemon (SIGKILL) and keep its mounts."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """End the daemon with SIGTERM; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def close(self) -> None:
        """Kill the daemon and end its namespace with all mounts."""
        self.kill()
        self._namespace.kill()
        self._namespace.wait()
        self._sockets.cleanup()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the node's mount namespace; its output."""
        enter = ["nsenter", "-t", str(self._namespace.pid), "-m", *command]
        return subprocess.run(enter, capture_output=True, text=True, check=False)

    def mounts(self) -> list[Mount]:
        """The mounts below the pods' directory."""
        table = parse_mountinfo(Path(f"/proc/{self._namespace.pid}/mountinfo").read_text())
        return [mount for mount in table if mount.point.startswith(str(self.pods))]

    def seen(self, path: str | Path) -> Path:
        """A path inside the node, as this process reaches it."""
        return Path(f"/proc/{self._namespace.pid}/root") / str(path).lstrip("/")

    def target(self, pod: str = "pod-a") -> str:
        """Where a pod's volume is mounted."""
        return str(self.pods / pod / "mount")

    def publish(self, handle: str, chain: Chain, pod: str = "pod-a", timeout_s: float = 60) -> None:
        """Call NodePublishVolume like a kubelet. Raises grpc.RpcError on refusal."""
        request = publish_request(handle, self.target(pod), chain)
        self.call("Node/NodePublishVolume", request, pb.NodePublishVolumeResponse, timeout_s=timeout_s)

    def unpublish(self, handle: str, pod: str = "pod-a") -> None:
        """Call NodeUnpublishVolume."""
        request = pb.NodeUnpublishVolumeRequest(volume_id=handle, target_path=self.target(pod))
        self.call("Node/NodeUnpublishVolume", request, pb.NodeUnpublishVolumeResponse)

    def call(self, method: str, request: Any, answer: Any, *, timeout_s: float = 20) -> Any:
        """Call one CSI method over the socket."""
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            invoke = channel.unary_unary(
                f"/csi.v1.{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            return invoke(request, timeout=timeout_s)

    def get(self, path: str) -> str:
        """GET a page of the daemon's HTTP server."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text


def publish_request(handle: str, target: str, chain: Chain) -> pb.NodePublishVolumeRequest:
    """Request that the kubelet sends for a PersistentVolume of the operator."""
    return pb.NodePublishVolumeRequest(
        volume_id=handle,
        target_path=target,
        volume_capability=pb.VolumeCapability(
            mount=pb.VolumeCapability.MountVolume(),
            access_mode=pb.VolumeCapability.AccessMode(mode=pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER),
        ),
        volume_context={"chain": chain_attribute(chain)},
    )


def daemon_env(kubeconfig: Path, s3: S3Server, bucket: str) -> dict[str, str]:
    """Environment of a daemon outside a pod: API server and repository."""
    return {
        **environment(s3),
        "KUBECONFIG": str(kubeconfig),
        "KIGI_S3_ENDPOINT": s3.endpoint,
        "KIGI_S3_BUCKET": bucket,
    }
