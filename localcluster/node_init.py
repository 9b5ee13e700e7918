"""Process 1 of the node's namespaces: mounts, containerd, kubelet, and the reaping of what they leave.

Run as ``python -m localcluster.node_init <node directory>`` below ``unshare --mount --pid``. virt-handler and
privileged pods enter /proc/1/ns/mnt, so process 1 must be this one and not the machine's. When it dies, the kernel
kills every process of the node (containers and virtual machines too) and drops every mount: so the node is cleaned up.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from localcluster.bounded import QUICK_S, run

# Directories that the kubelet, KubeVirt and Kigi expect at fixed places. On this node they are folders of the node's
# directory, bound to those places inside the namespace only: the machine's own are never touched.
BOUND = {
    "kubelet": "/var/lib/kubelet",
    "kubevirt": "/var/lib/kubevirt",
    "kubevirt-node-labeller": "/var/lib/kubevirt-node-labeller",
    "kigi": "/var/lib/kigi",
    "pod-logs": "/var/log/pods",
    "container-logs": "/var/log/containers",
}


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _mount(*arguments: str) -> None:
    run(["mount", *arguments], timeout_s=QUICK_S)


def _set_up(node: Path) -> None:
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/lock").mkdir()
    if not Path("/var/run").is_symlink():
        _mount("--bind", "/run", "/var/run")
    for name, place in BOUND.items():
        (node / name).mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(node / name), place)
    # A peer group of this namespace's own: pods share mounts with the node, never with the machine.
    _mount("--make-rshared", "/")


def _start(command: list[str], log: Path) -> int:
    # Not subprocess: its own bookkeeping would race with the loop below for the exit of a child.
    output = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), output, (os.POSIX_SPAWN_DUP2, 1, 2)]
    return os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsigdef=_SIGNALS)


def _wait_for_socket(path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear within {timeout_s:.0f} s")
        time.sleep(0.05)


def main() -> None:
    """Set up, start both daemons, restart one that ends, reap everything else."""
    node = Path(sys.argv[1])
    plan = json.loads((node / "commands.json").read_text())
    for number in _SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
    os.environ["PATH"] = f"{plan['path']}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"  # finds its shim
    _set_up(node)
    commands: dict[str, list[str]] = plan["commands"]
    running: dict[int, str] = {}
    for name, command in commands.items():
        running[_start(command, node / f"{name}.log")] = name
        if name == "containerd":
            _wait_for_socket(Path(plan["containerd_socket"]), 30)
    (node / "started").touch()
    while True:
        pid, _ = os.waitpid(-1, 0)
        name = running.pop(pid, "")
        if name:
            time.sleep(1)  # a daemon that cannot start must not fill the disk with its log
            running[_start(commands[name], node / f"{name}.log")] = name


if __name__ == "__main__":
    main()
