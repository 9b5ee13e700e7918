"""`down` restores the machine, whatever was running and however it ended.

This file runs last, because it removes the cluster that the other tests of this tier use.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from localcluster.bounded import QUICK_S, run
from localcluster.cluster import Cluster
from localcluster.paths import state_dir

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]


def traces() -> list[str]:
    """Possible remains of a cluster, found without its own records."""
    state = str(state_dir())
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if state in line or "kubelet" in line]
    for name in Path("/proc").iterdir():
        if name.name.isdigit() and int(name.name) != os.getpid():
            try:
                arguments = (name / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                command = Path(os.readlink(name / "exe")).name
            except OSError:
                continue
            if command in {"containerd-shim-runc-v2", "containerd", "kubelet", "virt-launcher"} or state in arguments:
                found.append(f"{name.name} {arguments}")
    links = run(["ip", "-o", "link"], timeout_s=QUICK_S).stdout
    found += [line for line in links.splitlines() if "kigi" in line or "veth" in line]
    addresses = run(["ip", "-o", "address"], timeout_s=QUICK_S).stdout
    found += [line for line in addresses.splitlines() if " 10.96." in line or " 10.244." in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob("**/kigi-local")]
    found += [path for path in (state, "/var/lib/kubelet") if Path(path).exists()]
    return found


def test_down_leaves_nothing(cluster: Cluster) -> None:
    assert traces() != [], "the check itself must see a running cluster"
    assert cluster.down() == []
    assert traces() == []


@pytest.mark.parametrize("seconds", [0.3, 1, 3, 6, 10])
def test_down_cleans_up_after_a_start_that_was_killed(seconds: float) -> None:
    if os.geteuid() != 0:
        pytest.skip("the local cluster needs root")
    command = [sys.executable, "-m", "localcluster", "up", "--without", "kubevirt", "--without", "kigi"]
    start = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)  # the time of the kill is the parameter of this test
    start.send_signal(signal.SIGKILL)
    start.wait(QUICK_S)
    assert Cluster().down() == []
    assert traces() == []


def test_down_cleans_up_a_node_whose_daemons_were_killed() -> None:
    if os.geteuid() != 0:
        pytest.skip("the local cluster needs root")
    cluster = Cluster()
    cluster.up(without=("kubevirt", "kigi"))
    own = [line for line in traces() if line.split(" ")[0].isdigit()]
    for line in own:
        try:
            os.kill(int(line.split(" ")[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended with its parent
    assert cluster.down() == []
    assert traces() == []
