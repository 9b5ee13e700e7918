"""The whole cluster on this machine: control plane, S3, nodes, KubeVirt, and Kigi's image on every node.

All files are below the state directory, which also records the processes. `down` finds links, cgroups and the service
address by their names. So `down` can clean up, and `up` can continue, after a start that was killed at any point.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from localcluster import iptables, kubevirt, node
from localcluster.bounded import KUBECTL_S, QUICK_S, TimedOut, locked, run
from localcluster.build import binary
from localcluster.builds import (
    PACKAGES,
    InBackground,
    ProgramBuilds,
    build_first_images,
    build_roots,
    download_modules,
    first_programs,
    kubevirt_programs,
)
from localcluster.controlplane import SERVICE_ADDRESS, ControlPlane, Options
from localcluster.definitions import wait_until_served
from localcluster.images import Image
from localcluster.kigi_image import build_kigi_image
from localcluster.kubevirt import DEFAULT_RELEASE, RELEASES, Release
from localcluster.node import Node
from localcluster.paths import cache_dir, state_dir
from localcluster.processes import Processes
from localcluster.s3 import READER, S3Server
from localcluster.system import ensure_apt_packages
from localcluster.timeline import Timeline

BUCKET = "kigi"
_S3_PORT = 9000
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_WEBHOOK_WITHIN_S = 300.0


class ClusterError(RuntimeError):
    """An operation on the cluster failed; the message has the command and its error output."""


class Cluster:
    """The local cluster of this machine. Only one can exist, because its addresses and link names are fixed."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or state_dir()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; `up` writes it when it has started the control plane."""
        return self.directory / "kubeconfig"

    @property
    def release(self) -> Release:
        """The KubeVirt release of this cluster; the default release if there is no cluster."""
        return RELEASES[self._release_name() or DEFAULT_RELEASE]

    @property
    def _kubectl_cache(self) -> Path:
        """What kubectl remembers of the API, which ends with this cluster: the next one has the same address."""
        return self.directory / "kubectl-cache"

    def up(
        self,
        *,
        without: Sequence[str] = (),
        nodes: int = 1,
        release: str | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        """Start the parts that are not running; idempotent. ``without`` may name ``kubevirt`` and ``kigi``.

        ``release`` is a key of ``kubevirt.RELEASES``; a cluster keeps its release until `down`. Raises ClusterError,
        BuildFailed, StartFailed, PackagesMissing or RuntimeError. After an error the started parts keep running, for
        inspection and for the next attempt. ``timeline`` gets the phases.
        """
        _require_root()
        ensure_apt_packages(PACKAGES)
        progress = timeline or Timeline()
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory / "lock", "starting or changing the cluster"):
            chosen = None if "kubevirt" in without else self._choose(release)
            # Debian's packages and Go's modules are downloaded while Go compiles.
            InBackground(lambda: download_modules(chosen))
            roots = InBackground(lambda: build_roots(chosen, progress, kigi="kigi" not in without))
            first, later = first_programs(), kubevirt_programs(chosen)
            builds = ProgramBuilds((*first, *later))
            with progress.phase("build programs"):
                builds.wait(first)
            progress("the control plane's programs are built")
            members = self._start_parts(nodes, progress)
            with progress.phase("build and import first images"):
                builds.wait(later[:1])
                self._load_all(members, list(build_first_images(chosen)))
            with progress.phase("wait for nodes"):
                self._wait_for_nodes([one.name for one in members])
            progress(f"{len(members)} node(s) ready, images imported")
            if chosen is not None:
                self._start_kubevirt(chosen, members, builds, progress)
            with progress.phase("wait for Kigi's image"):
                roots.result()
                if "kigi" not in without:
                    self._load_all(members, [build_kigi_image(cache_dir())])
            if chosen is not None:
                with progress.phase("wait for KubeVirt"):
                    self._wait_for_kubevirt()
                progress(f"KubeVirt {chosen.version} is deployed")
            (self.directory / "up").write_text(json.dumps({"without": list(without), "nodes": nodes}))

    def _start_kubevirt(
        self, chosen: Release, members: Sequence[Node], builds: ProgramBuilds, progress: Timeline
    ) -> None:
        """Applies KubeVirt; while its API starts, the programs and images of its node components are built."""
        with progress.phase("start KubeVirt's operator"):
            self._apply_kubevirt(chosen)
        with progress.phase("build and import KubeVirt's node images"):
            builds.wait(kubevirt_programs(chosen))
            self._load_all(members, kubevirt.build_node_images(cache_dir(), chosen))

    def _load_all(self, members: Sequence[Node], images: Sequence[Image]) -> None:
        for member in members:
            self._load(member, images)

    def _start_parts(self, nodes: int, progress: Timeline) -> list[Node]:
        """Starts control plane, S3 server and nodes; the nodes need not be ready yet."""
        with progress.phase("start control plane, S3 and nodes"):
            plane = self._start_control_plane()
            progress(f"API server is ready at {plane.server}")
            server = self._start_s3()
            progress(f"S3 server is ready at {server.endpoint}")
            members = [self._node(plane, number) for number in range(1, nodes + 1)]
            if nodes > 1:
                self.enable_forwarding()
            for member in members:
                member.start()
        return members

    def _wait_for_nodes(self, names: Sequence[str]) -> None:
        for condition in ("create", "condition=Ready"):
            self.kubectl("wait", f"--for={condition}", "--timeout=120s", *(f"node/{name}" for name in names))
        self.kubectl("label", "node", *names, "--overwrite", "node-role.kubernetes.io/control-plane=")

    def load_images(self, images: Sequence[Image]) -> None:
        """Import images on every node."""
        self._load_all(self.nodes(), images)

    def user_kubeconfig(self, user: str) -> Path:
        """A kubeconfig with a client certificate of this user."""
        return self._control_plane().user_kubeconfig(user)

    def load_kigi(self) -> None:
        """Build Kigi's image from the current source and import it on every node; takes seconds after a change."""
        image = build_kigi_image(cache_dir())
        for member in self.nodes():
            self._load(member, [image])

    def down(self) -> list[str]:
        """Stop and remove everything; returns descriptions of what is left, empty on success.

        Needs no record of the started parts: it also works after a crash, an interrupted `up`, or kill -9.
        """
        _require_root()
        directory = self.directory
        nodes = sorted((directory / "nodes").glob("*")) if directory.exists() else []
        for path in nodes:
            node.stop(path)
        for part in ("control-plane", "s3", "services"):
            if (directory / part).exists():
                processes = Processes(directory / part, detached=True)
                for name in processes.names():
                    processes.stop(name, sig=signal.SIGKILL)  # a clean end is not needed: the data is removed
        node.kill_strays(directory)
        iptables.remove_chains()
        node.clean_machine()
        _service_address("delete")
        self._restore_forwarding()
        for path in nodes:
            node.remove(path)
        shutil.rmtree(directory, ignore_errors=True)
        return self.leftovers()

    def leftovers(self) -> list[str]:
        """Remains of a cluster on this machine: processes, mounts, cgroups, links, addresses, files."""
        found = node.leftovers(self.directory)
        found += [f"chain {name}" for name in iptables.chains()]
        return [*found, f"address {SERVICE_ADDRESS}"] if _has_service_address() else found

    def status(self) -> dict[str, Any]:
        """State of each part; ``healthy`` is true if every part that `up` was asked for works."""
        wanted = self._requested()
        running = {
            name: Processes(self.directory / part).is_running(name)
            for part, names in (
                ("control-plane", ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")),
                ("s3", ("versitygw",)),
            )
            for name in names
            if (self.directory / part).exists()
        }
        running |= {
            path.name: node.find_init(path) is not None for path in sorted((self.directory / "nodes").glob("*"))
        }
        answer: dict[str, Any] = {"directory": str(self.directory), "running": running, "healthy": False}
        if wanted is None or not all(running.values()):
            return answer
        try:
            listing = json.loads(self.kubectl("get", "nodes", "-o", "json", timeout_s=QUICK_S))
            answer["nodes"] = {item["metadata"]["name"]: _is_ready(item) for item in listing["items"]}
            healthy = len(answer["nodes"]) >= wanted["nodes"] and all(answer["nodes"].values())
            if "kubevirt" not in wanted["without"]:
                phase = ("get", "kubevirt", "-n", kubevirt.NAMESPACE, "kubevirt", "-o", "jsonpath={.status.phase}")
                answer["kubevirt"] = self.kubectl(*phase, timeout_s=QUICK_S)
                healthy = healthy and answer["kubevirt"] == "Deployed"
            answer["healthy"] = healthy
        except ClusterError as error:
            answer["error"] = str(error)
        return answer

    def environment(self) -> dict[str, str]:
        """Variables for kubectl, S3 clients and `kigi publish` on this machine."""
        server = self.s3()
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self._kubectl_cache),
            "KIGI_S3_ENDPOINT": server.endpoint,
            "KIGI_S3_BUCKET": BUCKET,
            "AWS_ACCESS_KEY_ID": server.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": server.credentials.secret_key,
            "AWS_REGION": "us-east-1",
            "KIGI_READER_ACCESS_KEY_ID": READER.access_key,
            "KIGI_READER_SECRET_ACCESS_KEY": READER.secret_key,
        }

    def s3(self) -> S3Server:
        """The S3 server, running or not; pods and this machine use the same endpoint."""
        return S3Server(self.directory / "s3", node.node_address(1), _S3_PORT, detached=True)

    def nodes(self) -> list[Node]:
        """All nodes that `up` has made, by number."""
        plane = self._control_plane()
        numbers = sorted(int(path.name.rpartition("-")[2]) for path in (self.directory / "nodes").glob("*"))
        return [self._node(plane, number) for number in numbers]

    def kubectl(self, *arguments: str, input_text: str | None = None, timeout_s: float = KUBECTL_S) -> str:
        """Standard output of kubectl. Raises ClusterError with its stderr, also after ``timeout_s``."""
        command = [str(binary("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        try:
            environment = {**os.environ, "KUBECACHEDIR": str(self._kubectl_cache)}
            result = run(command, timeout_s=timeout_s, input_text=input_text, check=False, env=environment)
        except TimedOut as error:
            raise ClusterError(str(error)) from error
        if result.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def _start_control_plane(self) -> ControlPlane:
        _service_address("add")
        plane = self._control_plane().start()
        self.kubeconfig.write_bytes(plane.kubeconfig.read_bytes())
        self.kubeconfig.chmod(0o600)
        return plane

    def _control_plane(self) -> ControlPlane:
        # Only on the service address: reachable from pods and this machine, but not from the machine's network.
        options = Options(
            address=SERVICE_ADDRESS, port=443, advertise_address=node.node_address(1), pods=True, detached=True
        )
        return ControlPlane(self.directory / "control-plane", ("controller-manager", "scheduler"), options)

    def _start_s3(self) -> S3Server:
        node.add_bridge(1)  # the server binds to the bridge's address
        server = self.s3().start()
        server.create_bucket(BUCKET)
        server.grant_reading(BUCKET)
        return server

    def _node(self, plane: ControlPlane, number: int) -> Node:
        name = f"kigi-{number}"
        return Node(
            name=name,
            number=number,
            directory=self.directory / "nodes" / name,
            containerd=binary("containerd").parent,
            runc=binary("runc"),
            plugins=binary("bridge").parent,
            kubelet=binary("kubelet"),
            kubeconfig=plane.user_kubeconfig(f"system:node:{name}", ["system:nodes"]),
            client_ca=plane.authority.pair.certificate,
        )

    def _load(self, member: Node, images: Sequence[Image]) -> None:
        """Import the images that are new or have changed since the last import on this node."""
        record = member.directory / "imported.json"
        seen: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
        wanted = {image.name: repr(image) for image in images}
        changed = [image for image in images if seen.get(image.name) != wanted[image.name]]
        if changed:
            member.load(changed)
            record.write_text(json.dumps(seen | wanted))

    def _choose(self, name: str | None) -> Release:
        """The release of this name, or that of the existing cluster; recorded before any part of it runs."""
        present = self._release_name()
        if name and present and name != present:
            raise ClusterError(
                f"this cluster has KubeVirt {present}; run 'python -m localcluster down' before 'up --kubevirt {name}'"
            )
        name = name or present or DEFAULT_RELEASE
        (self.directory / "kubevirt").write_text(name)
        return RELEASES[name]

    def _release_name(self) -> str | None:
        record = self.directory / "kubevirt"
        return record.read_text() if record.exists() else None

    def _apply_kubevirt(self, release: Release) -> None:
        objects = kubevirt.operator_manifests(release)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input_text=yaml.safe_dump_all(objects))
        wait_until_served(self.kubectl)
        self._apply_kubevirt_object(release)

    def _wait_for_kubevirt(self) -> None:
        arguments = ("-n", kubevirt.NAMESPACE, "kubevirt/kubevirt", "--for=jsonpath={.status.phase}=Deployed")
        try:
            self.kubectl("wait", *arguments, "--timeout=900s")
            self.kubectl("wait", "-n", kubevirt.NAMESPACE, "pod", "--all", "--for=condition=Ready", "--timeout=300s")
        except ClusterError as error:
            pods = self.kubectl("get", "pods", "-A", "-o", "wide")
            raise ClusterError(f"KubeVirt did not become Deployed: {error}\n{pods}") from error

    def _apply_kubevirt_object(self, release: Release) -> None:
        """Apply the KubeVirt object; retries while virt-operator, whose webhook checks it, is still starting.

        The webhook exists already in a cluster that was started before.
        """
        text = yaml.safe_dump(kubevirt.kubevirt_object(release))
        end = time.monotonic() + _WEBHOOK_WITHIN_S
        while True:
            try:
                self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input_text=text)
                return
            except ClusterError as error:
                if "failed calling webhook" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(1)

    def enable_forwarding(self) -> None:
        """Let the machine forward packets between the bridges of several nodes, until `down`."""
        record = self.directory / "ip_forward"
        if not record.exists():
            record.write_text(_FORWARDING.read_text())
        _FORWARDING.write_text("1")

    def _restore_forwarding(self) -> None:
        record = self.directory / "ip_forward"
        if record.exists():
            _FORWARDING.write_text(record.read_text())

    def _requested(self) -> dict[str, Any] | None:
        try:
            wanted: dict[str, Any] = json.loads((self.directory / "up").read_text())
        except FileNotFoundError:
            return None
        return wanted


def _is_ready(item: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in item["status"].get("conditions", ()))


def _service_address(verb: str) -> None:
    if _has_service_address() != (verb == "add"):
        run(["ip", "address", verb, f"{SERVICE_ADDRESS}/32", "dev", "lo"], timeout_s=QUICK_S)


def _has_service_address() -> bool:
    listing = run(["ip", "-o", "address", "show", "dev", "lo"], timeout_s=QUICK_S)
    return f" {SERVICE_ADDRESS}/32 " in listing.stdout


def _require_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("run this as root: the local cluster makes namespaces, mounts, links and cgroups")
