"""Ten VMs on an empty node, and after a switch: Kigi compared with two methods of KubeVirt, in one run.

Measurements for each method and state:

- *until start*: from the request until the last of the ten VMs could start: all data is on the node, in the form that
  the VM starts from.
- *until on disk*: also until the kernel has written all data (sync). Kigi persists each layer before a VM may use it;
  the other two methods leave it to the kernel. All earlier data is written before a clock starts.
- *guests up*: separately, until the started guests have reported machine and state on their serial consoles. The guests
  are the same for each method and boot under software emulation: all ten of the tiny exercise, a server and a desktop
  of the real one. Between the states the VMs are off.

The methods:

    kigi           kubectl apply of a SystemDeployment; layers are fetched, verified and committed, volumes bound
    containerDisk  each VM's whole image as an OCI image: fetched and imported into the node's containerd
    copies         each VM's whole image fetched, and converted to its own raw disk, as CDI does for a PVC

All three read from the same S3 server. The local cluster has no registry: the archives of the OCI images are objects,
and ``ctr images import`` reads them from curl; a registry would add its own requests. Needs root, the local cluster (it
is started if it is not running) and 40 GB of disk. The real exercise is 1.3 GB in layers and 6 GB flat.

    python benchmarks/race.py [--scenario tiny|real] [--parallel 4] [--no-boot] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.race_ways import WAYS, Track, Way
from demo.prepare import prepare
from demo.targets import Target, install_kigi
from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.paths import cache_dir

STATES = ("infected", "cleaned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=["tiny", "real"], default="real")
    parser.add_argument("--parallel", type=int, default=4, help="concurrency limit of the peers' image transfers")
    parser.add_argument("--no-boot", action="store_true", help="do not boot guests")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    cluster = Cluster()
    cluster.up()
    cluster.load_kigi()
    target = Target(cluster.environment(), str(binary("kubectl")))
    install_kigi(target)
    published = prepare(target, options.scenario)
    result: dict[str, Any] = {"scenario": options.scenario, "parallel": options.parallel, "ways": {}}
    result |= {"load_average_before": os.getloadavg()[0], "guests": 0 if options.no_boot else len(published.running)}
    for kind in WAYS:
        with tempfile.TemporaryDirectory(prefix="kigi-race-", dir=cache_dir()) as scratch:
            way = kind(Track(cluster, target, published, Path(scratch), options.parallel))
            result["ways"][way.name] = run(way, boot=not options.no_boot)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def run(way: Way, *, boot: bool) -> list[dict[str, float]]:
    """One row per state: bytes moved, seconds until the VMs could start and until on disk, seconds of boot."""
    print(f"{way.name}: publishing", flush=True)
    rows = []
    try:
        way.publish(STATES)
        for state in STATES:
            os.sync()
            row = {"data_s": _seconds(lambda state=state: way.prepare(state)), "bytes": way.bytes_moved[-1]}
            row["on_disk_s"] = row["data_s"] + _seconds(os.sync)
            if boot:
                row["boot_s"] = _seconds(lambda state=state: way.boot(state))
                way.stop()
            rows.append(row)
            print(f"{way.name}: {state}: {row}", flush=True)
    finally:
        way.remove()
    return rows


def table(result: dict[str, Any]) -> str:
    """Text table of the result; column x is the time divided by Kigi's."""
    ours = result["ways"]["kigi"]
    lines = [
        f"{'':14} {'state':10} {'MB':>8} {'until start s':>14} {'x':>6} {'until on disk s':>16} {'x':>6} "
        f"{'guests up s':>12} {'in all s':>9} {'x':>6}"
    ]
    for name, rows in result["ways"].items():
        for state, row, our in zip(STATES, rows, ours, strict=True):
            whole, our_whole = (each["data_s"] + each.get("boot_s", 0.0) for each in (row, our))
            cells = f"{row['data_s']:14.1f} {row['data_s'] / our['data_s']:6.1f} {row['on_disk_s']:16.1f}"
            cells += f" {row['on_disk_s'] / our['on_disk_s']:6.1f} {row.get('boot_s', 0.0):12.1f}"
            cells += f" {whole:9.1f} {whole / our_whole:6.1f}"
            lines.append(f"{name:14} {state:10} {row['bytes'] / 1e6:8.1f} {cells}")
    return "\n".join(lines)


def _seconds(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
