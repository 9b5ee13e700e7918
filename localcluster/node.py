"""One real node: containerd and kubelet in namespaces of their own, a bridge for its pods.

The machine keeps nothing of it but one directory, one bridge link and one cgroup per controller; `stop` removes all three, also
when what started them was killed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from localcluster import images, node_init
from localcluster.images import Image

BRIDGE = "kigi0"
POD_NETWORK = "10.244.0.0/24"
GATEWAY = "10.244.0.1"
CGROUP = "kigi-local"
_CGROUPS = Path("/sys/fs/cgroup")
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
    """Where a node lives and what it runs. ``directory`` belongs to the node alone and is removed with it."""

    name: str
    directory: Path
    binaries: Path
    kubelet: Path
    kubeconfig: Path
    client_ca: Path
    address: str

    @property
    def socket(self) -> Path:
        """containerd's socket, reachable from outside the node's namespaces."""
        return self.directory / "containerd.sock"

    def start(self) -> None:
        """Start it detached; returns when containerd answers. Raises RuntimeError with the end of its log."""
        if find_init(self.directory) is not None:
            return
        stop(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        _make_cgroups()
        for place in node_init.BOUND.values():
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

    def load(self, archive: Path) -> None:
        """Import an archive of images; quick when its layers are there already."""
        self.ctr("images", "import", "--all-platforms", str(archive))

    def ctr(self, *arguments: str) -> str:
        """Run ``ctr`` in Kubernetes' namespace, inside the node."""
        command = [str(self.binaries / "ctr"), "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        return self.enter(*command)

    def enter(self, *command: str) -> str:
        """Standard output of a command run in the node's mount and PID namespaces. Raises RuntimeError if it fails."""
        pid = find_init(self.directory)
        if pid is None:
            raise RuntimeError("the node does not run")
        result = subprocess.run(
            ["nsenter", "--target", str(pid), "--mount", "--pid", "--", *command], capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()[-2000:]}")
        return result.stdout

    def _write_config(self) -> None:
        directory = self.directory
        network = directory / "cni"
        network.mkdir(exist_ok=True)
        (network / "10-bridge.conflist").write_text(json.dumps(_network(directory)))
        (directory / "containerd.toml").write_text(_containerd_config(self))
        (directory / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet_config(self)))
        # The name servers as they are now: inside the node /run is its own, and resolv.conf often links there.
        (directory / "resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
        commands = {
            "containerd": [str(self.binaries / "containerd"), "--config", str(directory / "containerd.toml")],
            "kubelet": [
                str(self.kubelet), f"--config={directory / 'kubelet.yaml'}", f"--kubeconfig={self.kubeconfig}",
                f"--hostname-override={self.name}", f"--node-ip={self.address}", "--v=1",
                "--node-labels=kubernetes.io/os=linux",
            ],
        }  # fmt: skip
        (directory / "commands.json").write_text(
            json.dumps({"commands": commands, "containerd_socket": str(self.socket)}, indent=1)
        )
        (directory / "started").unlink(missing_ok=True)


def build_pause_image(cache: Path) -> Path:
    """Archive of the sandbox image: one static binary that holds a pod's namespaces open."""
    archive = cache / "images" / "pause.tar"
    if not archive.exists():
        binary = cache / "bin" / "pause"
        binary.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-xc", "-static", "-Os", "-o", str(binary), "-"], input=_PAUSE.encode(), check=True)
        layer = images.pack_files({"pause": binary}, cache / "layers" / "pause.tar")
        images.write_archive([Image(_PAUSE_IMAGE, (layer,), entrypoint=("/pause",), user="65535:65535")], archive)
    return archive


def find_init(directory: Path) -> int | None:
    """Process id (as the machine sees it) of the node's process 1, or None if the node does not run."""
    for pid, arguments in _processes():
        if arguments[-3:] == ["-m", "localcluster.node_init", str(directory)] and "unshare" not in arguments[0]:
            return pid
    return None


def stop(directory: Path, timeout_s: float = 30) -> None:
    """Kill all of the node, then remove its link and cgroups; its directory stays. Safe to repeat, and after a crash."""
    doomed = [pid for pid, arguments in _processes() if "localcluster.node_init" in arguments and str(directory) in arguments]
    for pid in doomed:
        _kill(pid)
    deadline = time.monotonic() + timeout_s
    while any(Path(f"/proc/{pid}").exists() and not _is_zombie(pid) for pid in doomed):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {doomed} of the node do not end")
        time.sleep(0.05)
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True)
    while leftover := list(_cgroups()):
        for path in leftover:
            # Processes of a killed namespace leave their cgroup a moment after their parent is gone.
            try:
                path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def remove(directory: Path) -> None:
    """Remove a stopped node's directory and the mount points that it needed, if they are empty."""
    shutil.rmtree(directory, ignore_errors=True)
    for place in node_init.BOUND.values():
        try:
            Path(place).rmdir()
        except OSError:
            continue  # was there before, with something in it, or never made


def leftovers(directory: Path) -> list[str]:
    """What of a node is still there; empty when `stop` and `remove` did all of their work."""
    found = [f"process {pid}: {' '.join(arguments)[:120]}" for pid, arguments in _processes() if _belongs(arguments, directory)]
    found += [f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line]
    found += [f"cgroup {path}" for path in _cgroups()]
    found += [f"link {BRIDGE}"] if Path(f"/sys/class/net/{BRIDGE}").exists() else []
    found += [f"directory {directory}"] if directory.exists() else []
    return found


def _belongs(arguments: Sequence[str], directory: Path) -> bool:
    inside = f"{directory}/"
    return any(inside in argument or argument == str(directory) for argument in arguments)


def _network(directory: Path) -> dict[str, object]:
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(directory / "addresses"),
                    "ranges": [[{"subnet": POD_NETWORK, "gateway": GATEWAY}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def _containerd_config(node: Node) -> str:
    return f"""version = 3
root = "{node.directory}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp", "io.containerd.nri.v1.nri"]

[grpc]
address = "{node.socket}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{node.binaries}"]
conf_dir = "{node.directory}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{node.binaries}/runc"
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
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(node.client_ca)}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "makeIPTablesUtilChains": False,
        "resolvConf": str(node.directory / "resolv.conf"),
        "maxPods": 200,
        "podPidsLimit": -1,
        "serializeImagePulls": False,
        "registerNode": True,
        # Ten virtual machines start at once on two cores: the default of 5 queries a second would be the brake.
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "runtimeRequestTimeout": "10m",
        "imageGCHighThresholdPercent": 100,
        "syncFrequency": "10s",
    }


def _make_cgroups() -> None:
    for controller in _controllers():
        path = controller / CGROUP
        path.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # a new cpuset of cgroup v1 starts empty and takes no process
            if (path / name).exists() and not (path / name).read_text().strip():
                (path / name).write_text((controller / name).read_text())


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
    """Every cgroup of the node, the deepest first."""
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
                continue  # it ended meanwhile
            if arguments != [""] and int(path.name) != os.getpid():
                yield int(path.name), arguments


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _tail(path: Path, lines: int = 20) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
