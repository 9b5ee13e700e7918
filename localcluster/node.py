"""Real nodes: containerd and kubelet in their own namespaces, and a bridge for each node's pods.

Outside its namespaces a node has only one directory, one bridge and one cgroup per controller. `stop`, `clean_machine`
and `remove` remove these, also after the process that made them was killed.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from localcluster import images, node_init, rootfs
from localcluster.bounded import QUICK_S, feed, run
from localcluster.images import Image

CGROUP = "kigi-local"
COMMAND_S = 300.0
"""Timeout of a command in the node."""
_IMPORT_S = 1800.0
"""Timeout of an import of images."""
_BRIDGE = re.compile(r"kigi\d+")
_CGROUPS = Path("/sys/fs/cgroup")
_PROGRAMS = {
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "versitygw"),
    *("kube-proxy", "coredns"),
    *("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "nsenter"),
}
_LINKS = Path("/sys/class/net")
_PAUSE_IMAGE = "registry.local/pause:1"
_PAUSE = """#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void done(int number) { _exit(0); }
static void reap(int number) { while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGINT, done); signal(SIGTERM, done); signal(SIGCHLD, reap);
  for (;;) pause();
}
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A node's files and programs. ``directory`` is used by this node only and removed with it.

    ``number`` (from 1) determines its bridge ``kigi<number>`` and its pod network 10.244.<number>.0/24, in which the
    node has the first address. Both are independent of the machine's network and of other nodes.
    """

    name: str
    number: int
    directory: Path
    containerd: Path
    runc: Path
    plugins: Path
    kubelet: Path
    kubeconfig: Path
    client_ca: Path

    @property
    def bridge(self) -> str:
        """Bridge of the node's pods."""
        return f"kigi{self.number}"

    @property
    def address(self) -> str:
        """IP address of the node, which is the gateway of its pods and an address of the machine."""
        return node_address(self.number)

    @property
    def socket(self) -> Path:
        """containerd's socket, reachable from outside the node's namespaces."""
        return self.directory / "containerd.sock"

    @property
    def networks(self) -> Path:
        """Folder of CNI configurations; containerd uses the first by name."""
        return self.directory / "cni"

    @property
    def extra_plugins(self) -> Path:
        """Folder of additional CNI plugins; it may be missing."""
        return self.directory / "plugins"

    def start(self) -> None:
        """Start the node detached and wait for containerd's socket. Raises RuntimeError with the end of its log."""
        if find_init(self.directory) is not None:
            return
        stop(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        add_bridge(self.number)
        _make_cgroups(self.name)
        for place in node_init.BIND_MOUNTS.values():
            Path(place).mkdir(parents=True, exist_ok=True)
        self._write_config()
        with (self.directory / "init.log").open("ab") as log:
            process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "--mount-proc",
                 sys.executable, "-m", "localcluster.node_init", str(self.directory)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                cwd=Path(__file__).parent.parent,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (self.directory / "started").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node did not start:\n{_tail(self.directory / 'init.log')}")
            time.sleep(0.05)

    def load(self, wanted: Sequence[Image]) -> None:
        """Import images; layers that the node has are not sent. Raises RuntimeError with ctr's error output."""
        present = set(self.ctr("content", "ls", "--quiet").split())
        command = self._inside("ctr", "images", "import", "--all-platforms", "-")
        try:
            feed(command, lambda sink: images.write_archive(wanted, sink, present), timeout_s=_IMPORT_S)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"import of {[image.name for image in wanted]}: {error.stderr}") from error

    def ctr(self, *arguments: str) -> str:
        """Standard output of ``ctr``, run in the node and in containerd's namespace ``k8s.io``."""
        return _output(self._inside("ctr", *arguments))

    def enter(self, *command: str, timeout_s: float = COMMAND_S) -> str:
        """Standard output of a command that runs in the node's mount and PID namespaces.

        Raises RuntimeError if it fails or does not end within ``timeout_s``.
        """
        return _output(self._inside(*command), timeout_s)

    def _inside(self, program: str, *arguments: str) -> list[str]:
        pid = find_init(self.directory)
        if pid is None:
            raise RuntimeError(f"node {self.name} is not running; start it with 'python -m localcluster up'")
        command = [program, *arguments]
        if program == "ctr":
            command = [str(self.containerd / "ctr"), "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        return ["nsenter", "--target", str(pid), "--mount", "--pid", "--", *command]

    def _write_config(self) -> None:
        directory = self.directory
        self.networks.mkdir(exist_ok=True)
        (self.networks / "10-bridge.conflist").write_text(json.dumps(pod_network(self)))
        (directory / "containerd.toml").write_text(_containerd_config(self))
        (directory / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet_config(self)))
        # A copy: resolv.conf is often a link into /run, and the node has another /run.
        (directory / "resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
        commands = {
            "containerd": [str(self.containerd / "containerd"), "--config", str(directory / "containerd.toml")],
            "kubelet": [
                str(self.kubelet), f"--config={directory / 'kubelet.yaml'}", f"--kubeconfig={self.kubeconfig}",
                f"--hostname-override={self.name}", f"--node-ip={self.address}", "--v=1",
                "--node-labels=kubernetes.io/os=linux",
            ],
        }  # fmt: skip
        plan = {"commands": commands, "containerd_socket": str(self.socket), "path": str(self.containerd)}
        (directory / "commands.json").write_text(json.dumps(plan, indent=1))
        (directory / "started").unlink(missing_ok=True)


def node_address(number: int) -> str:
    """IP address of the node with this number."""
    return f"10.244.{number}.1"


def add_bridge(number: int) -> None:
    """Make a node's bridge with its address if it is missing. The CNI plugin uses an existing bridge unchanged."""
    if not (_LINKS / f"kigi{number}").exists():
        _ip("link", "add", f"kigi{number}", "type", "bridge")
        _ip("address", "add", f"{node_address(number)}/24", "dev", f"kigi{number}")
        _ip("link", "set", f"kigi{number}", "up")


def build_pause_image(cache: Path) -> Image:
    """The pods' sandbox image: one static binary that keeps the namespaces of a pod open."""
    target = cache / "layers" / f"pause-{rootfs.key(_PAUSE)}.tar"
    layer = images.load(target)
    if layer is None:
        with tempfile.TemporaryDirectory() as scratch:
            program = Path(scratch) / "pause"
            command = ["gcc", "-xc", "-static", "-Os", "-o", str(program), "-"]
            run(command, timeout_s=COMMAND_S, input_text=_PAUSE)
            layer = images.pack_files({"pause": program}, target)
    return Image(_PAUSE_IMAGE, (layer,), entrypoint=("/pause",), user="65535:65535")


def find_init(directory: Path) -> int | None:
    """Process id, in the machine's PID namespace, of the node's process 1; None if the node is not running."""
    for pid, arguments in _processes():
        if arguments[-3:] == ["-m", "localcluster.node_init", str(directory)] and "unshare" not in arguments[0]:
            return pid
    return None


def restart_kubelet(node: Node, servers: Sequence[str]) -> bool:
    """Restart the kubelet with other name servers for new pods; False if it has them already.

    ``node_init`` starts it again a second later; see ``is_restarted``.
    """
    path = node.directory / "kubelet.yaml"
    config = yaml.safe_load(path.read_text())
    if config["clusterDNS"] == list(servers):
        return False
    path.write_text(yaml.safe_dump({**config, "clusterDNS": list(servers)}))
    before = _kubelets(node)
    (node.directory / "restarted.json").write_text(json.dumps(before))
    for pid in before:
        os.kill(pid, signal.SIGTERM)
    return True


def is_restarted(node: Node) -> bool:
    """Whether the kubelet is another process than before ``restart_kubelet``."""
    before: list[int] = json.loads((node.directory / "restarted.json").read_text())
    return bool(set(_kubelets(node)) - set(before))


def _kubelets(node: Node) -> list[int]:
    flag = f"--config={node.directory / 'kubelet.yaml'}"
    return [pid for pid, arguments in _processes() if flag in arguments and arguments[0] == str(node.kubelet)]


def stop(directory: Path, timeout_s: float = 30) -> None:
    """Kill every process of the node and keep its directory. Safe to repeat, also after a crash."""
    doomed = [
        pid for pid, arguments in _processes() if "localcluster.node_init" in arguments and str(directory) in arguments
    ]
    for pid in doomed:
        _kill(pid)
    _wait_for_end(doomed, timeout_s)


def kill_strays(directory: Path) -> None:
    """Kill unrecorded programs of the cluster that use ``directory``; a killed start may leave some."""
    strays = [pid for pid, arguments in _processes() if _belongs(arguments, directory) and _is_program(arguments)]
    for pid in strays:
        _kill(pid)
    _wait_for_end(strays, 10)


def clean_machine(timeout_s: float = 30) -> None:
    """Remove the bridges and cgroups of all (stopped) nodes. Raises OSError if a cgroup still has a process."""
    for link in _bridges():
        for port in sorted((_LINKS / link / "brif").iterdir()):
            # The kernel removes a pod's link with the pod's namespaces, perhaps only now.
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("link", "delete", port.name)
        _ip("link", "delete", link)
    deadline = time.monotonic() + timeout_s
    while leftover := list(_cgroups()):
        for path in leftover:
            # Processes of a killed namespace leave their cgroup shortly after their parent has ended.
            try:
                path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def remove(directory: Path) -> None:
    """Remove a stopped node's directory, and those of its mount points that are empty."""
    shutil.rmtree(directory, ignore_errors=True)
    for place in node_init.BIND_MOUNTS.values():
        try:
            Path(place).rmdir()
        except OSError:
            continue  # not empty: it existed before; or it was never made


def leftovers(directory: Path) -> list[str]:
    """Remains of a node; empty after `stop`, `clean_machine` and `remove`."""
    found = [
        f"process {pid}: {' '.join(arguments)[:120]}"
        for pid, arguments in _processes()
        if _belongs(arguments, directory)
    ]
    found += [
        f"mount {line.split()[4]}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(directory) in line
    ]
    found += [f"cgroup {path}" for path in _cgroups()]
    found += [f"link {link}" for link in _bridges()]
    found += [f"directory {directory}"] if directory.exists() else []
    return found


def _belongs(arguments: Sequence[str], directory: Path) -> bool:
    inside = f"{directory}/"
    return any(inside in argument or argument == str(directory) for argument in arguments)


def _bridges() -> list[str]:
    return sorted(path.name for path in _LINKS.iterdir() if _BRIDGE.fullmatch(path.name))


def _ip(*arguments: str) -> None:
    run(["ip", *arguments], timeout_s=QUICK_S)


def _is_program(arguments: Sequence[str]) -> bool:
    name = Path(arguments[0]).name
    return name in _PROGRAMS or "localcluster.node_init" in arguments


def _wait_for_end(pids: Sequence[int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(Path(f"/proc/{pid}").exists() and not _is_zombie(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {list(pids)} have not ended {timeout_s:.0f} s after SIGKILL")
        time.sleep(0.05)


def pod_network(node: Node) -> dict[str, object]:
    """CNI configuration of the pod network, which every pod of the node uses."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": node.bridge,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(node.directory / "addresses"),
                    "ranges": [[{"subnet": f"10.244.{node.number}.0/24", "gateway": node.address}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def _containerd_config(node: Node) -> str:
    return f"""version = 3
root = "{node.directory}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri"]

[grpc]
address = "{node.socket}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{node.plugins}", "{node.extra_plugins}"]
conf_dir = "{node.networks}"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{node.runc}"
SystemdCgroup = false

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{_PAUSE_IMAGE}"
"""


def _kubelet_config(node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(node.client_ca)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}/{node.name}",
        "address": node.address,
        "healthzPort": 0,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "makeIPTablesUtilChains": False,
        "resolvConf": str(node.directory / "resolv.conf"),
        # The cluster has no DNS: its pods use the machine's name servers. Without this entry the kubelet would write a
        # warning event at each sync of a pod with dnsPolicy ClusterFirst.
        "clusterDNS": name_servers(),
        "clusterDomain": "cluster.local",
        "maxPods": 200,
        "podPidsLimit": -1,
        "serializeImagePulls": False,
        "registerNode": True,
        # Ten virtual machines start concurrently on two cores: the default of 5 queries a second would slow them down.
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "runtimeRequestTimeout": "10m",
        "imageGCHighThresholdPercent": 100,
        "syncFrequency": "10s",
    }


def name_servers() -> list[str]:
    """The machine's name servers, at most three."""
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    return [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"][:3]


def _make_cgroups(node: str) -> None:
    for path in (controller / CGROUP / part for controller in _controllers() for part in ("", node)):
        path.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # a new cpuset of cgroup v1 is empty and accepts no process
            if (path / name).exists() and not (path / name).read_text().strip():
                (path / name).write_text((path.parent / name).read_text())


def _controllers() -> Iterator[Path]:
    """The roots of the mounted cgroup hierarchies (cgroup v1), or the one root (cgroup v2)."""
    if (_CGROUPS / "cgroup.controllers").exists():
        yield _CGROUPS
        return
    seen = set()
    for path in sorted(_CGROUPS.iterdir()):
        real = path.resolve()
        if (real / "cgroup.procs").exists() and real not in seen:
            seen.add(real)
            yield real


def _cgroups() -> Iterator[Path]:
    """Every cgroup of the local cluster, the deepest first."""
    for controller in _controllers():
        if (controller / CGROUP).exists():
            for directory, _, _ in os.walk(controller / CGROUP, topdown=False):
                yield Path(directory)


def _processes() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                arguments = (path / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            except OSError:
                continue  # the process has ended
            if arguments != [""] and int(path.name) != os.getpid():
                yield int(path.name), arguments


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _output(command: Sequence[str], timeout_s: float = COMMAND_S) -> str:
    result = run(command, timeout_s=timeout_s, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()[-2000:]}")
    return result.stdout


def _tail(path: Path, lines: int = 20) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
