"""Process 1 of a node's namespaces: sets up mounts, runs containerd and the kubelet, and reaps ended processes.

Run as ``python -m localcluster.node_init <node directory>`` below ``unshare --mount --pid``. virt-handler and
privileged pods enter /proc/1/ns/mnt, so the node needs its own process 1. When it ends, the kernel kills every process
of the node, including containers and virtual machines, and drops every mount. This cleans up the node.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from localcluster.bounded import QUICK_S, run

# Directories that the kubelet, KubeVirt and Kigi expect at fixed paths: folder of the node's directory -> path. The
# bind mounts exist in the node's namespace only: the machine's own directories stay untouched.
BIND_MOUNTS = {
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
    for name, place in BIND_MOUNTS.items():
        (node / name).mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(node / name), place)
    # This namespace is its own peer group: pods share mounts with the node, but not with the machine.
    _mount("--make-rshared", "/")


def _start(command: list[str], log: Path) -> int:
    # Not subprocess.Popen: it would wait for children too and race with the loop in main.
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
    """Set up the mounts, start both daemons, restart a daemon that ends, and reap all other processes."""
    node = Path(sys.argv[1])
    plan = json.loads((node / "commands.json").read_text())
    for number in _SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
    os.environ["PATH"] = f"{plan['path']}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"  # for its shim
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
            time.sleep(1)  # limits the log of a daemon that cannot start
            running[_start(commands[name], node / f"{name}.log")] = name


if __name__ == "__main__":
    main()
